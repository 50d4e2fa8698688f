_base_ = '../../_base_/ckd_paper/mask_rcnn_r50_mobilenet_v2.py'
model = dict(losses={{_base_.review_kd}})
