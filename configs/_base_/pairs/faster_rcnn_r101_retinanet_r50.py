# Faster R-CNN R101 (2x, 39.8 box AP) teaches RetinaNet R50 on the 2x schedule (37.4 for the plain student; both
# published with MMDetection, not measured here). The teacher's RoI head scores the boxes that the student predicts:
# docs/other_pairs.md.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_2x_coco.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r101_fpn_2x_coco/faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth',
    ),
)
