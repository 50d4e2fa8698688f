# CKD from the embedded teacher, on the student's schedule.
_base_ = './digits_student.py'
custom_imports = dict(imports=['mmkd', 'mmkd.models'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/digits_teacher.py',
        checkpoint='{{ fileDirname }}/weights/digits_teacher-9f76e1e7.pth',
    ),
    # Published for ResNet56 to ResNet20 on CIFAR-100, two small networks of one family as here.
    losses=dict(ckd=dict(type='mmkd.CKDLoss', weight=10.0, temperature=1.0)),
)
