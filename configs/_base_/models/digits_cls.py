# The ResNet-8 of CIFAR, a quarter as wide, for the embedded digits at 16 px.
custom_imports = dict(imports=['mmkd.models'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkd.CifarResNet', depth=8, stem_channels=4, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=16,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
)
