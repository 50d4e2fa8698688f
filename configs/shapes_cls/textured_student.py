# The plain student on the embedded textured shapes.
_base_ = [
    '../_base_/models/textured_cls.py',
    '../_base_/datasets/textured_cls_views.py',
    '../_base_/schedules/shapes_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]
