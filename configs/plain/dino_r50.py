# The plain student of configs/*/dino_swinl_r50.py, on the same schedule.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
