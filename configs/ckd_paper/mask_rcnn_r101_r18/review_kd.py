_base_ = '../../_base_/ckd_paper/mask_rcnn_r101_r18.py'
model = dict(losses=dict(review_kd=dict(type='mmkd.ReviewKDLoss', weight=1.5)))
