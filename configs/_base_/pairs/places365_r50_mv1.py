# ResNet50 teaches MobileNetV1 on Places365. The teacher is the one published with the data set, converted by
# tools/convert_teacher.py. CKD, KD and DKD are published for this pair; the other methods have their settings for
# ImageNet.
_base_ = '../../places365/plain_places365_mv1.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::places365/plain_places365_r50.py',
        checkpoint='work_dirs/teachers/places365_r50.pth',
    ),
)
presets = dict(
    dkd=dict(dkd=dict(beta=2.0)),
    dkd_lskd=dict(dkd_lskd=dict(beta=2.0)),
    aekt=dict(aekt=dict(beta=2.0)),
)
