# ResNet18 on ImageNet, 11.69M parameters: the student of imagenet_r34_r18, and what all on ImageNet share.
# The data: data/imagenet/{train,val}/CLASS/*.JPEG, or all files of a split named in data/imagenet/meta/{train,val}.txt.
_base_ = '../_base_/classification.py'
model = dict(
    backbone=dict(type='ResNet', depth=18, zero_init_residual=False),
    head=dict(num_classes=1000, in_channels=512),
)
data_root = 'data/imagenet/'
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,  # on each of 8 GPUs
    num_workers=8,
    dataset=dict(
        type='ImageNet',
        _scope_='mmpretrain',
        data_root=data_root,
        split='train',
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    dataset=dict(
        type='ImageNet',
        _scope_='mmpretrain',
        data_root=data_root,
        split='val',
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

# The schedule published with CKD (arXiv 2404.14109), twice as long as that of the methods it is compared with there; here
# every method has it. That of the others: --schedule mmkd::_base_/schedules/imagenet_100e.py; DIST and NKD have it
# with batches of 256 images and a learning rate of 0.1.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='CosineAnnealingLR', T_max=200, eta_min=0.0, by_epoch=True)
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
auto_scale_lr = dict(base_batch_size=512)
