# The plain student of configs/*/retinanet_r101_r50.py, on the same schedule.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'
