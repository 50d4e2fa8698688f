_base_ = ['../../_base_/ckd_paper/mask_rcnn_r101_r50.py', '../../_base_/methods/ckd_paper.py']
model = dict(
    losses=dict(ckd={{_base_.ckd.ckd}}, review_kd=dict(type='mmkd.ReviewKDLoss', weight=1.0))
)
