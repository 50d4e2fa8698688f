# The teacher is MMDetection's own R50, 3x: 40.9 box AP, 37.1 mask AP (published with MMDetection, not measured here).
# The paper's is Detectron2's 3x model, whose file does not fit MMDetection.
_base_ = ['./plain.py', '../../_base_/distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::mask_rcnn/mask-rcnn_r50_fpn_ms-poly-3x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco/mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth',
    ),
    losses=dict(
        ckd={{_base_.presets.ckd_review_kd.ckd}},
        review_kd=dict(
            type='mmkd.ReviewKDLoss', weight={{_base_.presets.ckd_review_kd.review_kd.weight}}
        ),
    ),
)
