# The plain student of configs/*/rtmdet_l_s.py, on the same schedule.
_base_ = 'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py'
