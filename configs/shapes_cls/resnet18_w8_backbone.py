# The students' backbone of configs/shapes, trained to classify, as detectors start from ImageNet: the textured shapes at
# 64 px, where they are as large as a detector's objects, with the detectors' normalisation.
_base_ = [
    '../_base_/datasets/textured_cls.py',
    '../_base_/schedules/shapes_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet', depth=18, stem_channels=8, base_channels=8, num_stages=4, out_indices=(3,)
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=30,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
)
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
enlarge = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=64)]
flip = dict(type='RandomFlip', prob=[0.4, 0.4], direction=['horizontal', 'vertical'])
train_dataloader = dict(dataset=dict(pipeline=[*enlarge, flip, dict(type='PackInputs')]))
val_dataloader = dict(dataset=dict(pipeline=[*enlarge, dict(type='PackInputs')]))
test_dataloader = val_dataloader
max_epochs = 40
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
