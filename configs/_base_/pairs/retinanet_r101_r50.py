# RetinaNet R101 (2x) teaches RetinaNet R50 on the 2x schedule: a published MMDetection teacher with 38.9 box AP
# (37.4 for the plain student; both published with MMDetection, not measured here).
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_2x_coco.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    ),
)
