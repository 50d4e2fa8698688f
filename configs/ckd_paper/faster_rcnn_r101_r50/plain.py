# Faster R-CNN FPN R50 as Detectron2 trains it: frozen batch norms (RESNETS.NORM FrozenBN), stem and first stage
# frozen (FREEZE_AT 2). Backbone weights are torchvision's, the pixels RGB, as MMDetection's teachers have them;
# Detectron2's R50 has MSRA's weights and BGR pixels.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../../_base_/ckd_paper/detectron2.py',
]
model = dict(backbone=dict(norm_cfg=dict(requires_grad=False)))
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args={{_base_.backend_args}}),
    dict(type='LoadAnnotations', with_bbox=True),
    {{_base_.multi_scale}},
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=4,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(pipeline=train_pipeline),
)

# Published for this pair: beside CKD, beside DKD and alone.
presets = dict(review_kd=dict(review_kd=dict(weight=1.0)))
