# Places365-Standard in the "easy directory structure" of 256 px images: data/places365_standard/{train,val}/CLASS/*.jpg.
# Augmentation and normalisation are ImageNet's.
_base_ = './imagenet.py'
data_root = 'data/places365_standard/'
data_preprocessor = dict(num_classes=365)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        _scope_='mmpretrain',
        data_root=data_root,
        data_prefix='train',
        pipeline={{_base_.train_pipeline}},
    )
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
