# The plain student on the embedded digits.
_base_ = [
    '../_base_/models/digits_cls.py',
    '../_base_/datasets/digits_cls_views.py',
    '../_base_/schedules/shapes_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]
