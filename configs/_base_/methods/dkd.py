# DKD as published for CIFAR-100, the pairs with beta 8; beta is 2 for ResNet56 to 20 and 110 to 32, and 6 for the
# VGG13 and WRN40-2 to WRN pairs. ImageNet: temperature 1, warm-up of 1 epoch, beta 0.5 (ResNet34 to 18) or 2 (ResNet50
# to MobileNetV1). Faster R-CNN: dkd_rcnn.py.
dkd = dict(
    dkd=dict(
        type='mmkd.DKDLoss',
        weight=dict(type='mmkd.LinearWarmup', end=20),
        alpha=1.0,
        beta=8.0,
        temperature=4.0,
    )
)
