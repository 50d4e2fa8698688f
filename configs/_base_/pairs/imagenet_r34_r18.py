# ResNet34 teaches ResNet18 on ImageNet, on CKD's published schedule, which is that of configs/imagenet/plain_r18.py.
# The teacher is MMPretrain's, 73.62 top-1 (published with MMPretrain, not measured here).
_base_ = ['../../imagenet/plain_r18.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmpretrain::resnet/resnet34_8xb32_in1k.py',
        checkpoint='https://mmassets.onedl.ai/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth',
    ),
)
