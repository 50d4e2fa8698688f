# What all classifiers on CIFAR-100 share. configs/cifar100/plain_*.py add a backbone, and a learning rate and a batch size
# where they are other ones. Batch sizes, which are also CKD's contrastive batches, are for one GPU.
# The data are the pickled batches that CIFAR-100's authors publish (data/cifar100/cifar-100-python/{train,test,meta}),
# which MMPretrain downloads where they are missing. Augmentation and normalisation are those of the distillation papers.
_base_ = './classification.py'
model = dict(head=dict(num_classes=100))
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
    batch_size=64,
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

# The schedule published with CKD (arXiv 2404.14109), twice as long as that of the methods it is compared with there; here
# every method has it. That of the others: --schedule mmkd::_base_/schedules/cifar100_240e.py.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='CosineAnnealingLR', T_max=480, eta_min=0.0, by_epoch=True)
train_cfg = dict(by_epoch=True, max_epochs=480, val_interval=1)

# What --losses takes of a method, where it is not what configs/_base_/methods has for classifiers: the settings published for
# CIFAR-100. What differs from pair to pair is in configs/_base_/pairs/cifar100_*.py.
presets = dict(
    ckd=dict(ckd=dict(weight=100.0)),
    # Reconstructed, see docs/aekt.md: alpha, beta, temperature and warm-up are those of DKD.
    aekt=dict(aekt=dict(weight=dict(end=20), beta=8.0, temperature=4.0)),
    # 0.1 CE + 0.9 KD.
    kd=dict(task_weight=0.1, kd=dict(weight=0.9, temperature=4.0)),
    dkd=dict(dkd=dict(weight=dict(end=20), beta=8.0, temperature=4.0)),
    dist=dict(dist=dict(temperature=4.0)),
    # NKD has what its paper has: the one CIFAR-100 config in its code, for a pair that is none of these, has gamma 3.5,
    # temperature 3.
    # 0.1 CE + 9 KD on standardised logits.
    lskd=dict(task_weight=0.1),
    # The whole of DKD times 9, with temperature 2, as logged for ResNet32x4 to ResNet8x4 and to ShuffleNetV2. For pairs
    # with ShuffleNetV1 LSKD publishes nothing.
    dkd_lskd=dict(dkd_lskd=dict(weight=dict(value=9.0, end=20), beta=8.0, temperature=2.0)),
    # The three stages of CIFAR's ResNets; MobileNetV2, VGG and ShuffleNetV2 name theirs otherwise.
    at=dict(at=dict(at=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'])),
    nst=dict(nst=dict(at=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'])),
    vid=dict(vid=dict(at=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'])),
    ofd=dict(
        ofd=dict(
            at=[
                'backbone.layer1.before_relu',
                'backbone.layer2.before_relu',
                'backbone.layer3.before_relu',
            ]
        )
    ),
)
