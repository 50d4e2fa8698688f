_base_ = [
    '../../_base_/ckd_paper/mask_rcnn_r50_mobilenet_v2.py',
    '../../_base_/methods/dkd_rcnn.py',
]
model = dict(
    losses=dict(dkd={{_base_.dkd.dkd}}, review_kd=dict(type='mmkd.ReviewKDLoss', weight=2.0))
)
