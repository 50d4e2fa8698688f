# The teacher is MMDetection's own R101, 3x: 41.8 box AP (published with MMDetection, not measured here). The paper's is
# Detectron2's 3x model, whose file does not fit MMDetection.
_base_ = ['./plain.py', '../../_base_/distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_ms-3x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r101_fpn_mstrain_3x_coco/faster_rcnn_r101_fpn_mstrain_3x_coco_20210524_110822-4d4d2ca8.pth',
    ),
    losses=dict(
        ckd={{_base_.presets.ckd_review_kd.ckd}},
        review_kd=dict(
            type='mmkd.ReviewKDLoss', weight={{_base_.presets.review_kd.review_kd.weight}}
        ),
    ),
)
