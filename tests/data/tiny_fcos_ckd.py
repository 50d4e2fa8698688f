"""A tiny FCOS distilled by CKD and AEKT whose step on several processes is that of one: frozen BN, no augmentation."""

_base_ = './tiny_retinanet.py'
custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)

student = dict(
    type='FCOS',
    data_preprocessor={{_base_.model.data_preprocessor}},
    backbone=dict(type='ResNet', depth=18, base_channels=8, norm_eval=True),
    neck={{_base_.model.neck}},
    bbox_head=dict(
        type='FCOSHead',
        num_classes=10,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        strides=[8, 16, 32, 64, 128],
        norm_cfg=dict(type='GN', num_groups=4),
    ),
    test_cfg={{_base_.model.test_cfg}},
)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=student,
    teacher=dict(config=dict(model=student, default_scope='mmdet'), checkpoint='random_init'),
    losses=dict(
        ckd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.TeacherTopK', k=8)),
        aekt=dict(
            type='mmkd.AEKTLoss',
            serial='task_then_distill',
            weight=dict(type='LinearWarmup', begin=1, end=2),
        ),
    ),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(64, 64), keep_ratio=True),
            dict(type='PackDetInputs'),
        ]
    )
)
train_cfg = dict(max_epochs=2, val_interval=9)
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [dict(type='EMAHook', momentum=0.5)]
