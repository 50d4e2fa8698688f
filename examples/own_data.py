"""RetinaNet R18 on data of three classes in COCO's format, with the published COCO teacher: docs/own_data.md."""

_base_ = 'mmkd::ckd/retinanet_r50_r18.py'  # teacher RetinaNet R50, student RetinaNet R18, CKD

# The data. A single class is written with a comma: ('cat',)
data_root = 'data/mine/'
metainfo = dict(classes=('cat', 'dog', 'horse'))
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

# The student has three classes; the teacher keeps its 80.
model = dict(student=dict(bbox_head=dict(num_classes=3)))

# The schedule: docs/own_data.md says how it follows from the data.
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type='MultiStepLR', by_epoch=True, milestones=[24, 33], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(lr=0.0025))
