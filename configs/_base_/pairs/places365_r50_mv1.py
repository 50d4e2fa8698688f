# ResNet50 teaches MobileNetV1 on Places365. The teacher is the one published with the data set, converted by
# tools/convert_teacher.py. CKD's settings are the published ones, equal to those for ImageNet; the other methods publish
# nothing for this pair and have theirs for ImageNet.
_base_ = ['../../places365/plain_places365_mv1.py', '../imagenet_methods.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/../../places365/plain_places365_r50.py',
        checkpoint='work_dirs/teachers/places365_r50.pth',
    ),
)
dkd = dict(dkd=dict(beta=2.0))
dkd_lskd = dict(dkd_lskd=dict(beta=2.0))
aekt = dict(aekt=dict(beta=2.0))
