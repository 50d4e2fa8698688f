"""The tiny RetinaNet distilled from a teacher of the same kind."""

_base_ = './tiny_retinanet.py'
custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(config='tests/data/tiny_retinanet.py', checkpoint='work_dirs/teacher/epoch_1.pth'),
    losses=dict(ckd=dict(type='mmkd.CKDLoss', weight=1.0)),
)
