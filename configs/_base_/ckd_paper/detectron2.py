# What the recipes of configs/ckd_paper share, translated from Detectron2 as the published runs used it.
# - SOLVER: BASE_LR 0.01, IMS_PER_BATCH 8, MAX_ITER 360000, STEPS 240000 and 320000, which are CKD's. Momentum, weight
#   decay (0 on norms) and warm-up (WARMUP_ITERS 1000, WARMUP_FACTOR 1/1000) are Detectron2's defaults.
# - IMS_PER_BATCH counts the images of all GPUs, `batch_size` those of one: 4 on each of 2 GPUs, with which the CKD runs
#   are published. On N GPUs set train_dataloader.batch_size to 8 / N; the RoIs of one GPU, 512 of each image, form one
#   contrastive batch, so that N changes CKD.
# - The published CKD runs are twice as long as the ReviewKD and DKD runs they are compared with (180k iterations), but
#   for two: ReviewKD on Faster R-CNN R101 to R18, ReviewKD + DKD on Mask R-CNN R101 to R50. Here all get the same 360k.
# - INPUT: MIN_SIZE_TRAIN one of 640 to 800, MAX_SIZE_TRAIN 1333.
_base_ = 'mmdet::_base_/default_runtime.py'

max_iters = 360000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=60000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
    paramwise_cfg=dict(norm_decay_mult=0.0),  # WEIGHT_DECAY_NORM, which ReviewKD's fusions have too
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=max_iters,
        milestones=[240000, 320000],
        gamma=0.1,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10000, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)

multi_scale = dict(
    type='RandomChoiceResize',
    scales=[(1333, short_edge) for short_edge in (640, 672, 704, 736, 768, 800)],
    keep_ratio=True,
)

# What replaces backbone and neck of the R50s.
resnet18 = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

# MobileNetV2-FPN of ReviewKD's and DKD's code: m2 to m5 with 24, 32, 96 and 320 channels at strides 4 to 32, nothing
# frozen but the batch norms (FREEZE_AT 0). MMDetection's backbone ends in a convolution to 1280 channels that the
# neck does not read; it gets no gradient, hence `find_unused_parameters` in the recipes.
mobilenet_v2 = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)

# CKD as published with ReviewKD: the RoIs of each of the 2 GPUs are one contrastive batch.
presets = dict(
    ckd_review_kd=dict(
        ckd=dict(type='mmkd.CKDLoss', weight=0.1, temperature=1.0, same_object='keep', gather=False)
    )
)
