_base_ = '../../_base_/ckd_paper/mask_rcnn_r50_mobilenet_v2.py'
model = dict(losses=dict(review_kd=dict(type='mmkd.ReviewKDLoss', weight=1.0)))
