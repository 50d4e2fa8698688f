# What all classifiers on ImageNet share.
_base_ = [
    './classification.py',
    './datasets/imagenet.py',
    './schedules/imagenet_{{$MMKD_SCHEDULE:200e}}.py',
]
model = dict(head=dict(num_classes=1000))
train_dataloader = dict(batch_size={{_base_.batch_size}})
