# The embedded textured shapes: `python tools/make_shapes.py --task classification` writes data/textured_cls.
# Settings are chosen on val, results are those of test, on which nothing is chosen. Images are small: loading them in the
# training's own process is as fast as in another one.
data_root = 'data/textured_cls/'
# fmt: off
classes = (
    'plain_circle', 'stripes_circle', 'checks_circle',
    'plain_ellipse', 'stripes_ellipse', 'checks_ellipse',
    'plain_square', 'stripes_square', 'checks_square',
    'plain_rectangle', 'stripes_rectangle', 'checks_rectangle',
    'plain_triangle', 'stripes_triangle', 'checks_triangle',
    'plain_pentagon', 'stripes_pentagon', 'checks_pentagon',
    'plain_star', 'stripes_star', 'checks_star',
    'plain_cross', 'stripes_cross', 'checks_cross',
    'plain_ring', 'stripes_ring', 'checks_ring',
    'plain_crescent', 'stripes_crescent', 'checks_crescent',
)
# fmt: on
data_preprocessor = dict(num_classes=len(classes), mean=[127.5] * 3, std=[64.0] * 3, to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='ImageNet',
        data_root=data_root,
        split='train',
        metainfo=dict(classes=classes),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ImageNet',
        data_root=data_root,
        split='val',
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ImageNet',
        data_root=data_root,
        # With split='test', ImageNet's own test images, MMPretrain expects no labels.
        ann_file='meta/test.txt',
        data_prefix='test',
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

# What --losses takes of a method, where it is not what configs/_base_/methods has for ImageNet: temperature and weights published for
# small networks on CIFAR-100; beta of DKD and AEKT was chosen on val (docs/benchmark.md).
presets = dict(
    aekt=dict(aekt=dict(beta=2.0, temperature=4.0)),
    kd=dict(task_weight=0.1, kd=dict(weight=0.9, temperature=4.0)),
    dkd=dict(dkd=dict(beta=2.0, temperature=4.0)),
    dist=dict(dist=dict(temperature=4.0)),
)
