# Outlines of scikit-learn's handwritten digits, scattered and scaled on textured backgrounds, by other writers in each split:
# `python tools/make_shapes.py --objects digits` writes data/digits.
_base_ = './shapes_detection.py'
data_root = 'data/digits/'
dataset = dict(
    data_root=data_root, metainfo=dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))
)
# A digit that is flipped is another one or none.
train_dataloader = dict(
    dataset=dict(
        **dataset,
        pipeline=[
            dict(type='LoadImageFromFile', backend_args=None),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(128, 128), keep_ratio=True),
            dict(type='PackDetInputs'),
        ],
    )
)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = dict(ann_file=data_root + 'annotations/instances_test2017.json')
