# CKD from the embedded teacher, on the student's schedule.
_base_ = ['./dino_student.py', '../_base_/distill.py', '../_base_/methods/ckd_query.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/dino_teacher.py',
        checkpoint='{{ fileDirname }}/weights/dino_teacher-00000000.pth',
    ),
    losses={{_base_.ckd}},
)
