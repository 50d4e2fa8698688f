# ResNet34 teaches ResNet18 on ImageNet. The teacher is MMPretrain's, 73.62 top-1, and MMPretrain's student has 69.90
# (published with MMPretrain, not measured here). The papers have torchvision's: docs/classification.md.
_base_ = '../../imagenet/plain_r18.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmpretrain::resnet/resnet34_8xb32_in1k.py',
        checkpoint='https://mmassets.onedl.ai/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth',
    ),
)
