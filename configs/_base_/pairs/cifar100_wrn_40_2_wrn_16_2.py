# WRN-40-2 teaches WRN-16-2 on CIFAR-100: 75.61 top-1 teaches 73.26 (both published with CRD and mdistiller, not
# measured here). What CKD, DKD and LSKD publish for this pair; AEKT has DKD's.
_base_ = '../../cifar100/plain_wrn_16_2.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::cifar100/plain_wrn_40_2.py',
        checkpoint='work_dirs/teachers/cifar100_wrn_40_2.pth',
    ),
)
presets = dict(
    ckd=dict(ckd=dict(weight=100.0, temperature=1.0)),
    dkd=dict(dkd=dict(beta=6.0)),
    dkd_lskd=dict(dkd_lskd=dict(beta=2.0, weight=dict(value=12.0))),
    aekt=dict(aekt=dict(beta=6.0)),
)
