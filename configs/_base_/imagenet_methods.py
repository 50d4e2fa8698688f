# The methods of configs/imagenet with the settings published for ImageNet, and of configs/places365, for which CKD, KD and
# DKD are published. beta of DKD and AEKT is the pair's: configs/_base_/pairs/{imagenet,places365}_*.py.
ckd = dict(ckd=dict(type='mmkd.CKDLoss', weight=10.0, temperature=1.0))

# Reconstructed, see docs/aekt.md: alpha, beta, temperature and warm-up are those of DKD.
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

# 0.5 CE + 0.5 KD.
task_weight = 0.5
kd = dict(kd=dict(type='mmkd.KDLoss', weight=0.5, temperature=1.0))

dkd = dict(
    dkd=dict(
        type='mmkd.DKDLoss',
        weight=dict(type='mmkd.LinearWarmup', end=1),
        alpha=1.0,
        beta=0.5,
        temperature=1.0,
    )
)

dist = dict(dist=dict(type='mmkd.DISTLoss', weight=2.0, beta=1.0, gamma=1.0, temperature=1.0))

nkd = dict(nkd=dict(type='mmkd.NKDLoss', weight=1.0, gamma=1.5, temperature=1.0))

# KD on standardised logits (LSKD, CVPR 2024), 1 CE + 9 KD: published for ResNet34 to ResNet18, weight and temperature by
# the command line.
lskd = dict(lskd=dict(type='mmkd.KDLoss', weight=9.0, temperature=2.0, rows='standardize'))

# DKD on standardised logits. Its settings for ImageNet are not in the published code: these are DKD's own.
dkd_lskd = dict(
    dkd_lskd=dict(
        type='mmkd.DKDLoss',
        weight=dict(type='mmkd.LinearWarmup', end=1),
        alpha=1.0,
        beta=0.5,
        temperature=1.0,
        rows='standardize',
    )
)
