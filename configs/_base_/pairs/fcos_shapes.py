# The wide FCOS teaches the narrow one on the embedded shapes, on the student's schedule.
_base_ = ['../../shapes/fcos_student.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/../../shapes/fcos_teacher.py',
        checkpoint='work_dirs/shapes/fcos_teacher/epoch_8.pth',
    ),
)
