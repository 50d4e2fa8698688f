# CIFAR-100 in the pickled batches that its authors publish (data/cifar100/cifar-100-python/{train,test,meta}), which
# MMPretrain downloads where they are missing. Augmentation and normalisation are those of the distillation papers.
data_root = 'data/cifar100/'
data_preprocessor = dict(
    num_classes=100,
    mean=[0.5071 * 255, 0.4867 * 255, 0.4408 * 255],
    std=[0.2675 * 255, 0.2565 * 255, 0.2761 * 255],
    to_rgb=False,  # they are
)
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    num_workers=4,
    dataset=dict(
        type='CIFAR100',
        _scope_='mmpretrain',
        data_root=data_root,
        split='train',
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    dataset=dict(
        type='CIFAR100',
        _scope_='mmpretrain',
        data_root=data_root,
        split='test',
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
