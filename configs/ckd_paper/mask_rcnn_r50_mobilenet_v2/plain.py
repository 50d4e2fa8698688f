_base_ = '../../_base_/ckd_paper/mask_rcnn_mobilenet_v2.py'
