_base_ = '../../_base_/ckd_paper/mask_rcnn_r18.py'
