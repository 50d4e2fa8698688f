# The plain student of configs/*/fcos_r101_r50.py, on the same schedule.
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py'
