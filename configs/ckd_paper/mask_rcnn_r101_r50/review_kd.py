_base_ = '../../_base_/ckd_paper/mask_rcnn_r101_r50.py'
model = dict(losses=dict(review_kd=dict(type='mmkd.ReviewKDLoss', weight=0.8)))
