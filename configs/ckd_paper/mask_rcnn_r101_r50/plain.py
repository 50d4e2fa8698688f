_base_ = '../../_base_/ckd_paper/mask_rcnn_r50.py'
