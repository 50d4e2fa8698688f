# ResNet34 teaches ResNet18 on Places365. No ResNet34 is published for it: train the teacher with
# configs/places365/plain_places365_r34.py. CKD's settings are the published ones, equal to those for ImageNet; the other
# methods publish nothing for this pair and have theirs for ImageNet.
_base_ = ['../../places365/plain_places365_r18.py', '../imagenet_methods.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{ fileDirname }}/../../places365/plain_places365_r34.py',
        checkpoint='work_dirs/plain_places365_r34/epoch_100.pth',
    ),
)
