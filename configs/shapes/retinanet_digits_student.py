# The plain student on the embedded digits.
_base_ = [
    '../_base_/models/retinanet_shapes.py',
    '../_base_/datasets/digits_detection_views.py',
    '../_base_/schedules/shapes.py',
    'mmdet::_base_/default_runtime.py',
]
