# What is published for classifiers, on ImageNet where it is published for that. Other settings for CIFAR-100 are in
# configs/_base_/cifar100.py, what differs from pair to pair in the pairs' files, each in `presets`.
# `task_weight` is the weight of the student's own loss where it is not 1.
ckd_classifier = dict(ckd=dict(type='mmkd.CKDLoss', weight=10.0, temperature=1.0))

# AEKT: reconstructed, see docs/aekt.md. Nothing is published: alpha, beta, temperature and warm-up are
# those of DKD for ImageNet.
aekt_classifier = dict(
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
kd_classifier = dict(task_weight=0.5, kd=dict(type='mmkd.KDLoss', weight=0.5, temperature=1.0))

dkd_classifier = dict(
    dkd=dict(
        type='mmkd.DKDLoss',
        weight=dict(type='mmkd.LinearWarmup', end=1),
        alpha=1.0,
        beta=0.5,
        temperature=1.0,
    )
)

# KD on standardised logits (LSKD, CVPR 2024), 1 CE + 9 KD: published for ResNet34 to ResNet18, weight and temperature by
# the command line.
lskd_classifier = dict(
    lskd=dict(type='mmkd.KDLoss', weight=9.0, temperature=2.0, rows='standardize')
)

# DKD on standardised logits. Its settings for ImageNet are not in the published code: these are DKD's own.
dkd_lskd_classifier = dict(
    dkd_lskd=dict(
        type='mmkd.DKDLoss',
        weight=dict(type='mmkd.LinearWarmup', end=1),
        alpha=1.0,
        beta=0.5,
        temperature=1.0,
        rows='standardize',
    )
)

# Class-aware Logit KD (arXiv 2211.14773): mu 0.5, beta 2, nu 0.4, for classifiers beside 0.1 of the cross entropy.
clkd = dict(clkd=dict(type='mmkd.CLKDLoss', mu=0.5, beta=2.0, nu=0.4))
clkd_classifier = dict(task_weight=0.1, clkd=dict(type='mmkd.CLKDLoss', mu=0.5, beta=2.0, nu=0.4))

# Comparative KD (arXiv 2311.02253): weight 1. Published without the cross entropy (model.task_weight=0) and with a
# fine-tuning after it, in groups of two and three samples; here all pairs of a batch.
comparative_kd = dict(comparative_kd=dict(type='mmkd.ComparativeKDLoss', weight=1.0))

# The correlations of R2KD (IEEE TKDE 2024): temperature 4, weight 2 for samples and for classes.
correlation_kd = dict(
    correlation_kd=dict(type='mmkd.CorrelationKDLoss', temperature=4.0, row_weight=2.0, columns=2.0)
)

# RKD (CVPR 2019): 25 times the distances, 50 times the angles.
rkd_classifier = dict(rkd=dict(type='mmkd.RKDLoss', distance_weight=25.0, angle_weight=50.0))

# Features as RepDistiller (ICLR 2020) compares the methods on CIFAR-100, each beside the whole cross entropy and without KD.
# SP (ICCV 2019): 3000, on the maps of the last stage.
sp_classifier = dict(sp=dict(type='mmkd.SPLoss', weight=3000.0, at='backbone'))

# PKT (ECCV 2018): 30,000, on pooled features.
pkt_classifier = dict(pkt=dict(type='mmkd.PKTLoss', weight=30000.0))

# CC (ICCV 2019): 0.02. There on linear embeddings of both networks' pooled features, here on the teacher's own.
cc_classifier = dict(
    cc=dict(type='mmkd.CCLoss', weight=0.02, connector=dict(type='mmkd.ConvConnector'))
)

# ICKD (ICCV 2021): 2.5, on the maps of the last stage, between which there are a 1x1 convolution and BN.
ickd_classifier = dict(
    ickd=dict(
        type='mmkd.ICKDLoss',
        weight=2.5,
        at='backbone',
        connector=dict(type='mmkd.ConvConnector', norm=True),
    )
)

# AT (ICLR 2017): 1000 and power 2, on all stages. Those of a ResNet; other backbones name theirs in `at`.
at_classifier = dict(
    at=dict(
        type='mmkd.ATLoss',
        weight=1000.0,
        power=2.0,
        at=['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4'],
    )
)

# NST (arXiv 1707.01219): 50, on all stages.
nst_classifier = dict(
    nst=dict(
        type='mmkd.NSTLoss',
        weight=50.0,
        at=['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4'],
    )
)

# FitNet (ICLR 2015): 100, on the second stage, behind a 1x1 convolution where the student is thinner.
fitnet_classifier = dict(
    fitnet=dict(
        type='mmkd.FitNetLoss',
        weight=100.0,
        at='backbone.layer2',
        connector=dict(type='mmkd.ConvConnector'),
    )
)

# VID (CVPR 2019): 1, on all stages, variances from 5.
vid_classifier = dict(
    vid=dict(
        type='mmkd.VIDLoss',
        weight=1.0,
        initial_variance=5.0,
        at=['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4'],
    )
)

# OFD (ICCV 2019): 1e-3, on all stages before their last ReLU, behind a 1x1 convolution and BN.
ofd_classifier = dict(
    ofd=dict(
        type='mmkd.OFDLoss',
        weight=1e-3,
        at=[
            'backbone.layer1.before_relu',
            'backbone.layer2.before_relu',
            'backbone.layer3.before_relu',
            'backbone.layer4.before_relu',
        ],
    )
)

# OFA-KD (NeurIPS 2023), its loss on logits: weight 1, temperature 1, gamma 1.5 for ResNet-18 under DeiT-T on ImageNet. On
# RoI and query heads nothing is published.
ofa = dict(ofa=dict(type='mmkd.OFALoss', weight=1.0, gamma=1.5, temperature=1.0))

# TTM and WTTM (ICLR 2024) on CIFAR-100 as their code has them: TTM for VGG13 to VGG8, WTTM beside CRD. What else is published
# differs from pair to pair and stands in the paper. On RoI and query heads nothing is published.
ttm = dict(ttm=dict(type='mmkd.TTMLoss', weight=45.0, gamma=0.1))
wttm = dict(wttm=dict(type='mmkd.TTMLoss', weight=4.0, gamma=0.2, weighted=True))

# CTKD (AAAI 2023), 0.1 CE + 0.9 KD as on CIFAR-100: temperatures 1 to 21, the curriculum over the first 10 epochs. On RoI and
# query heads nothing is published.
ctkd = dict(ctkd=dict(type='mmkd.CTKDLoss', weight=0.9))
ctkd_classifier = dict(task_weight=0.1, ctkd=dict(type='mmkd.CTKDLoss', weight=0.9))

# MLLD (CVPR 2023), 0.1 CE + 0.9 KD as in its code: temperatures 2 to 6, relations of samples and of classes with weight 1. The
# published second, strongly augmented view of each image is left out. On RoI and query heads nothing is published.
mlld = dict(mlld=dict(type='mmkd.MLLDLoss', weight=0.9))
mlld_classifier = dict(task_weight=0.1, mlld=dict(type='mmkd.MLLDLoss', weight=0.9))

# Tf-KD (CVPR 2020) under a virtual teacher, model.teacher=dict(type='mmkd.VirtualTeacher', confidence=0.99): 0.9 CE + 0.1 KD at
# temperature 20. KD's square of the temperature is ours: the paper has none, its code a multiplier for each network.
tf_kd_classifier = dict(
    task_weight=0.9, tf_kd=dict(type='mmkd.KDLoss', weight=0.1, temperature=20.0)
)

# CRD (ICLR 2020): 0.8, embeddings of width 128, 16384 negatives, temperature 0.07, momentum 0.5. num_samples is ImageNet's; the
# training data set has to be wrapped in mmkd.SeededViews.
crd_classifier = dict(crd=dict(type='mmkd.CRDLoss', weight=0.8, num_samples=1281167))
