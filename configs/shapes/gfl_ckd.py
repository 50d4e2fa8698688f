# CKD from the embedded teacher, on the student's schedule.
_base_ = ['./gfl_student.py', '../_base_/distill.py', '../_base_/methods/ckd_sigmoid.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/gfl_teacher.py',
        checkpoint='{{ fileDirname }}/weights/gfl_teacher-949e38a7.pth',
    ),
    losses={{_base_.ckd}},
)
