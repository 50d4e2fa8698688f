_base_ = '../../_base_/ckd_paper/faster_rcnn_mobilenet_v2.py'
