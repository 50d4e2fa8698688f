# The plain student of configs/*/gfl_r101_r50.py, on the same schedule.
_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
