"""The tiny distillation with all that has a state: random augmentation and assignment, moving average, schedules."""

_base_ = './tiny_ckd.py'
model = dict(
    student=dict(
        train_cfg=dict(
            sampler=dict(
                _delete_=True,
                type='RandomSampler',
                num=32,
                pos_fraction=0.5,
                neg_pos_ub=-1,
                add_gt_as_proposals=False,
            )
        )
    ),
    teacher=dict(config='{{ fileDirname }}/tiny_retinanet.py', checkpoint='random_init'),
    losses=dict(
        ckd=dict(
            _delete_=True,
            type='mmkd.CKDLoss',
            weight=dict(type='LinearWarmup', end=2, by_epoch=True),
        ),
        review=dict(type='mmkd.ReviewKDLoss', weight=0.1),
        vid=dict(type='mmkd.VIDLoss', weight=0.1),
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(batch_size=3, num_workers=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1)
train_cfg = dict(max_epochs=4, val_interval=1)
optim_wrapper = dict(accumulative_counts=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=7),
    dict(
        type='ReduceOnPlateauParamScheduler', param_name='lr', monitor='coco/bbox_mAP', patience=1
    ),
]
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
default_hooks = dict(checkpoint=dict(interval=2, by_epoch=False, max_keep_ckpts=3))
