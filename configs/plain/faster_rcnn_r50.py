# The plain student of configs/*/faster_rcnn_r101_r50.py, on the same schedule.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py'
