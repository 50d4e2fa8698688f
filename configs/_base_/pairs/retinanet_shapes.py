# The wide RetinaNet teaches the narrow one on the embedded shapes, on the student's schedule.
_base_ = ['../../shapes/retinanet_student.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/../../shapes/retinanet_teacher.py',
        checkpoint='work_dirs/shapes/retinanet_teacher/epoch_8.pth',
    ),
)
