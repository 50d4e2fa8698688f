# The same student on the same schedule, with CKD from the teacher.
_base_ = ['./retinanet_student.py', '../_base_/methods/ckd_sigmoid.py', '../_base_/distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/shapes/retinanet_teacher.py',
        checkpoint='work_dirs/shapes/retinanet_teacher/epoch_8.pth',
    ),
    losses={{_base_.ckd}},
)
