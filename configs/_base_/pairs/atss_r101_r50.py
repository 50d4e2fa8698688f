# ATSS R101 teaches ATSS R50, both 1x: 41.5 box AP teaches 39.4 (both published with MMDetection, not measured here).
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::atss/atss_r101_fpn_1x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/atss/atss_r101_fpn_1x_coco/atss_r101_fpn_1x_20200825-dfcadd6f.pth',
    ),
)
