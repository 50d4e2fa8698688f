# RetinaNet R50 (2x) teaches RetinaNet R18 on its 1x schedule: a published MMDetection teacher with 37.4 box AP
# (31.7 for the plain student; both published with MMDetection, not measured here).
_base_ = ['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r50_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_fpn_2x_coco/retinanet_r50_fpn_2x_coco_20200131-fdb43119.pth',
    ),
)
