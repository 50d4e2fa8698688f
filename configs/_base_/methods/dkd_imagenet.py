# DKD as published for ImageNet, ResNet34 to 18; beta is 2 for ResNet50 to MobileNetV1.
dkd = dict(
    dkd=dict(
        type='mmkd.DKDLoss',
        weight=dict(type='mmkd.LinearWarmup', end=1),
        alpha=1.0,
        beta=0.5,
        temperature=1.0,
    )
)
