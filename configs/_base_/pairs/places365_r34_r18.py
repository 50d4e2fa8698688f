# ResNet34 teaches ResNet18 on Places365. The teacher is the published one, converted by tools/convert_teacher.py, or one
# that configs/places365/plain_places365_r34.py trains. CKD, KD and DKD are published for this pair; the other methods
# have their settings for ImageNet.
_base_ = '../../places365/plain_places365_r18.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::places365/plain_places365_r34.py',
        checkpoint='work_dirs/teachers/places365_r34.pth',
    ),
)
