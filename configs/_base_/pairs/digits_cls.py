# The wide ResNet teaches the narrow one on the embedded digits, on the student's schedule.
_base_ = ['../../shapes_cls/digits_student.py', '../shapes_cls_methods.py']
custom_imports = dict(imports=['mmkd', 'mmkd.models'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/../../shapes_cls/digits_teacher.py',
        checkpoint='work_dirs/shapes_cls/digits_teacher/epoch_8.pth',
    ),
)
