# The methods of configs/cifar100 with the settings published for CIFAR-100. What differs from pair to pair is in
# configs/_base_/pairs/cifar100_*.py: weight and temperature of CKD, beta of DKD and AEKT, what LSKD's logged runs had other
# than here.
ckd = dict(ckd=dict(type='mmkd.CKDLoss', weight=100.0, temperature=1.0))

# Reconstructed, see docs/aekt.md: alpha, beta, temperature and warm-up are those of DKD.
aekt = dict(
    aekt=dict(
        type='mmkd.AEKTLoss',
        weight=dict(type='mmkd.LinearWarmup', end=20),
        alpha=1.0,
        beta=8.0,
        temperature=4.0,
        gamma=1.0,
        r_max=4.0,
    )
)

# 0.1 CE + 0.9 KD. The task weight is also that of KD on standardised logits.
task_weight = 0.1
kd = dict(kd=dict(type='mmkd.KDLoss', weight=0.9, temperature=4.0))

dkd = dict(
    dkd=dict(
        type='mmkd.DKDLoss',
        weight=dict(type='mmkd.LinearWarmup', end=20),
        alpha=1.0,
        beta=8.0,
        temperature=4.0,
    )
)

dist = dict(dist=dict(type='mmkd.DISTLoss', weight=2.0, beta=1.0, gamma=1.0, temperature=4.0))

# As in the paper. The one CIFAR-100 config in its code, for a pair that is none of these, has gamma 3.5, temperature 3.
nkd = dict(nkd=dict(type='mmkd.NKDLoss', weight=1.0, gamma=1.5, temperature=1.0))

# KD on standardised logits (LSKD, CVPR 2024): 0.1 CE + 9 KD.
lskd = dict(lskd=dict(type='mmkd.KDLoss', weight=9.0, temperature=2.0, rows='standardize'))

# DKD on standardised logits: the whole of DKD times 9, with temperature 2, as logged for ResNet32x4 to ResNet8x4 and to
# ShuffleNetV2. For pairs with ShuffleNetV1 LSKD publishes nothing.
dkd_lskd = dict(
    dkd_lskd=dict(
        type='mmkd.DKDLoss',
        weight=dict(type='mmkd.LinearWarmup', value=9.0, end=20),
        alpha=1.0,
        beta=8.0,
        temperature=2.0,
        rows='standardize',
    )
)
