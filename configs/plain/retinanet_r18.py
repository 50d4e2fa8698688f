# The plain student of configs/*/retinanet_r50_r18.py, on the same schedule.
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
