# The teacher on the embedded shapes.
_base_ = [
    '../_base_/models/faster_rcnn_shapes_teacher.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/shapes.py',
    'mmdet::_base_/default_runtime.py',
]
# Half of the student's rate for the wider network, as for the RetinaNet.
optim_wrapper = dict(optimizer=dict(lr=5e-3))
