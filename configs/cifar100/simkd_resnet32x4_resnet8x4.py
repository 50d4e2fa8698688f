# SimKD (CVPR 2022) for ResNet8x4 under ResNet32x4 on CIFAR-100: only the squared difference of the last maps, weight 1, no cross
# entropy. The student is ResNet8x4 with a projector and the teacher's class layer, which it keeps when it is deployed.
_base_ = '../_base_/pairs/cifar100_resnet32x4_resnet8x4.py'
model = dict(
    student=dict(
        neck=[
            dict(type='mmkd.SimKDProjector', in_channels=256, out_channels=256),
            dict(type='GlobalAveragePooling'),
        ],
        head=dict(
            type='mmkd.ReusedLinearClsHead',
            in_channels=256,
            init_cfg=dict(
                _delete_=True,
                type='Pretrained',
                checkpoint='work_dirs/teachers/cifar100_resnet32x4.pth',
                prefix='head.',
            ),
        ),
    ),
    losses=dict(simkd=dict(type='mmkd.FitNetLoss', weight=1.0, at='neck.0', teacher_at='backbone')),
    task_weight=0.0,
)
