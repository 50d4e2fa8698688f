# The plain student on the embedded shapes.
_base_ = [
    '../_base_/models/dino_shapes.py',
    '../_base_/datasets/shapes_detection_views.py',
    '../_base_/schedules/shapes.py',
    'mmdet::_base_/default_runtime.py',
]
# A tenth of the convolutional students' rate (the only one that was tried).
optim_wrapper = dict(optimizer=dict(lr=1e-3))
