# ResNet56 teaches ResNet20 on CIFAR-100: 72.34 top-1 teaches 69.06 (both published with CRD and mdistiller, not
# measured here). What CKD, DKD and LSKD publish for this pair; AEKT has DKD's.
_base_ = '../../cifar100/plain_resnet20.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::cifar100/plain_resnet56.py',
        checkpoint='work_dirs/teachers/cifar100_resnet56.pth',
    ),
)
presets = dict(
    ckd=dict(ckd=dict(weight=10.0, temperature=1.0)),
    dkd=dict(dkd=dict(beta=2.0)),
    dkd_lskd=dict(dkd_lskd=dict(beta=2.0, temperature=3.0, weight=dict(value=18.0))),
    aekt=dict(aekt=dict(beta=2.0)),
)
