# AEKT (reconstructed, see docs/aekt.md) on RoI heads. Nothing is published for detectors: alpha, beta and temperature
# are those of DKD for Faster R-CNN. Classifiers: cifar100_methods.py, imagenet_methods.py.
aekt = dict(
    aekt=dict(
        type='mmkd.AEKTLoss',
        weight=1.0,
        alpha=1.0,
        beta=0.25,
        temperature=1.0,
        gamma=1.0,
        r_max=4.0,
    )
)
