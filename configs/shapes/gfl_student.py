# The plain student on the embedded shapes.
_base_ = [
    '../_base_/models/gfl_shapes.py',
    '../_base_/datasets/shapes_detection_views.py',
    '../_base_/schedules/shapes.py',
    'mmdet::_base_/default_runtime.py',
]
