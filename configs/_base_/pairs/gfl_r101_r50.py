# GFL R101 (multi-scale, 2x) teaches GFL R50 on its 1x schedule: 44.7 box AP teaches 40.2 (both published with
# MMDetection, not measured here). The pair that LD and CrossKD report on.
_base_ = ['mmdet::gfl/gfl_r50_fpn_1x_coco.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth',
    ),
)
