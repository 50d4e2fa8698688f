_base_ = '../../_base_/ckd_paper/faster_rcnn_r50.py'
