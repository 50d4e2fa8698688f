# AEKT (reconstructed, see docs/aekt.md) for ImageNet: alpha, beta, temperature and warm-up are those of DKD for ResNet34
# to 18.
aekt = dict(
    aekt=dict(
        type='mmkd.AEKTLoss',
        weight=dict(type='mmkd.LinearWarmup', end=1),
        alpha=1.0,
        beta=0.5,
        temperature=1.0,
        gamma=1.0,
        r_max=4.0,
    )
)
