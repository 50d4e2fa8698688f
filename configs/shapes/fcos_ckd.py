# CKD from the embedded teacher, on the student's schedule.
_base_ = ['./fcos_student.py', '../_base_/distill.py', '../_base_/methods/ckd_sigmoid.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/fcos_teacher.py',
        checkpoint='{{ fileDirname }}/weights/fcos_teacher-76615757.pth',
    ),
    losses={{_base_.ckd}},
)
