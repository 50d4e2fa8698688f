# The wide Faster R-CNN teaches the narrow one on the embedded shapes, on the student's schedule.
_base_ = ['../../shapes/faster_rcnn_student.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/../../shapes/faster_rcnn_teacher.py',
        checkpoint='work_dirs/shapes/faster_rcnn_teacher/epoch_8.pth',
    ),
)
