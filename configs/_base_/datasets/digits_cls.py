# scikit-learn's handwritten digits: `python tools/make_shapes.py --task classification --objects digits` writes
# data/digits_cls.
_base_ = './textured_cls.py'
data_root = 'data/digits_cls/'
classes = ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
data_preprocessor = dict(num_classes=len(classes))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=16, padding=1),
    dict(type='PackInputs'),
]
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(dataset=dict(**dataset, pipeline=train_pipeline))
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)

# Of ten classes, temperature 4 leaves too little: on val the settings for ImageNet are better (docs/benchmark.md).
presets = dict(_delete_=True)
