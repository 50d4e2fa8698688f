# The plain student of configs/*/atss_r101_r50.py, on the same schedule.
_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
