# What all classifiers on Places365 share.
_base_ = [
    './classification.py',
    './datasets/places365.py',
    './schedules/places365_100e.py',
]
model = dict(head=dict(num_classes=365))
train_dataloader = dict(batch_size={{_base_.batch_size}})
