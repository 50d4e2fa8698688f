# The methods of configs/shapes_cls with the settings that are published for ResNet56 to ResNet20 on CIFAR-100, two small
# networks of one family as here. Nothing was tuned on the embedded data; the warm-up is 20 of 240 epochs there, one of
# eight here.
ckd = dict(ckd=dict(type='mmkd.CKDLoss', weight=10.0, temperature=1.0))

# Reconstructed, see docs/aekt.md: alpha, beta, temperature and warm-up are those of DKD.
aekt = dict(
    aekt=dict(
        type='mmkd.AEKTLoss',
        weight=dict(type='mmkd.LinearWarmup', end=1),
        alpha=1.0,
        beta=2.0,
        temperature=4.0,
        gamma=1.0,
        r_max=4.0,
    )
)

# 0.1 CE + 0.9 KD.
task_weight = 0.1
kd = dict(kd=dict(type='mmkd.KDLoss', weight=0.9, temperature=4.0))

dkd = dict(
    dkd=dict(
        type='mmkd.DKDLoss',
        weight=dict(type='mmkd.LinearWarmup', end=1),
        alpha=1.0,
        beta=2.0,
        temperature=4.0,
    )
)

dist = dict(dist=dict(type='mmkd.DISTLoss', weight=2.0, beta=1.0, gamma=1.0, temperature=4.0))
