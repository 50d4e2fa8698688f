# What all classifiers share: their head, MMPretrain's runtime. A backbone, `in_channels` and `num_classes` are still to be
# given. `_scope_` is for configs that have these as `_base_ = 'mmkd::...'`. Class layers start as PyTorch makes them, as in distillation papers' code, and not with MMPretrain's 0.01.
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmkd', 'mmkd.models'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    _scope_='mmpretrain',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
        init_cfg=None,
    ),
)
val_evaluator = dict(type='Accuracy', _scope_='mmpretrain', topk=(1, 5))
test_evaluator = val_evaluator
val_cfg = {}
test_cfg = {}
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=2),
    visualization=dict(type='VisualizationHook', _scope_='mmpretrain', enable=False),
)
visualizer = dict(
    type='UniversalVisualizer', _scope_='mmpretrain', vis_backends=[dict(type='LocalVisBackend')]
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
