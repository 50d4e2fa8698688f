# ResNet50 teaches MobileNetV1 on ImageNet. The teacher is MMPretrain's, 76.55 top-1 (published with MMPretrain, not
# measured here). The papers have torchvision's: docs/classification.md.
_base_ = '../../imagenet/plain_mv1.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmpretrain::resnet/resnet50_8xb32_in1k.py',
        checkpoint='https://mmassets.onedl.ai/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth',
    ),
)
presets = dict(
    dkd=dict(dkd=dict(beta=2.0)),
    dkd_lskd=dict(dkd_lskd=dict(beta=2.0)),
    aekt=dict(aekt=dict(beta=2.0)),
)
