# CKD from the embedded teacher, on the student's schedule.
_base_ = ['./faster_rcnn_student.py', '../_base_/distill.py', '../_base_/methods/ckd_rcnn.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/faster_rcnn_teacher.py',
        checkpoint='{{ fileDirname }}/weights/faster_rcnn_teacher-5c27b9e8.pth',
    ),
    losses={{_base_.ckd}},
)
