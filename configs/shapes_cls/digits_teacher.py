# The teacher on the embedded digits.
_base_ = [
    '../_base_/models/digits_cls_teacher.py',
    '../_base_/datasets/digits_cls.py',
    '../_base_/schedules/shapes_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=5e-3))
