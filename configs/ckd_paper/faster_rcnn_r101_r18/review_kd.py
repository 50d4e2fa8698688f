_base_ = '../../_base_/ckd_paper/faster_rcnn_r101_r18.py'
model = dict(losses={{_base_.review_kd}})
