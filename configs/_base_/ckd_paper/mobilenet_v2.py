# MobileNetV2-FPN of ReviewKD's and DKD's code: m2 to m5 with 24, 32, 96 and 320 channels at strides 4 to 32, nothing
# frozen but the batch norms (FREEZE_AT 0). MMDetection's backbone ends in a convolution to 1280 channels that the
# neck does not read; it gets no gradient, hence `find_unused_parameters`.
find_unused_parameters = True
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
