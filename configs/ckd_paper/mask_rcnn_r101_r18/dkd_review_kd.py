_base_ = ['../../_base_/ckd_paper/mask_rcnn_r101_r18.py', '../../_base_/methods/dkd_rcnn.py']
model = dict(
    losses=dict(dkd={{_base_.dkd.dkd}}, review_kd=dict(type='mmkd.ReviewKDLoss', weight=1.2))
)
