# ResNet18 on Places365-Standard: the student of places365_r34_r18, and what all on Places365 share.
# The data: the "easy directory structure" of 256 px images, data/places365_standard/{train,val}/CLASS/*.jpg. Augmentation and
# normalisation are ImageNet's.
_base_ = '../imagenet/plain_r18.py'
model = dict(head=dict(num_classes=365))
data_root = 'data/places365_standard/'
data_preprocessor = dict(num_classes=365)
train_dataloader = dict(
    batch_size=32,  # on each of 8 GPUs
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        _scope_='mmpretrain',
        data_root=data_root,
        data_prefix='train',
        pipeline={{_base_.train_pipeline}},
    ),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        _scope_='mmpretrain',
        data_root=data_root,
        data_prefix='val',
        pipeline={{_base_.test_pipeline}},
    )
)
test_dataloader = val_dataloader

# The schedule published with CKD for Places365 (arXiv 2404.14109), and with KD and DKD beside it; DKD from ResNet50 to
# MobileNetV1 has half of this learning rate there.
param_scheduler = dict(
    _delete_=True, type='MultiStepLR', milestones=[30, 60, 90], gamma=0.1, by_epoch=True
)
train_cfg = dict(max_epochs=100)
auto_scale_lr = dict(base_batch_size=256)
