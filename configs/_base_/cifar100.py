# What all classifiers on CIFAR-100 share. configs/cifar100/plain_*.py add a backbone, and a learning rate and a batch size
# where they are other ones. Batch sizes, which are also CKD's contrastive batches, are for one GPU.
_base_ = [
    './classification.py',
    './datasets/cifar100.py',
    './schedules/cifar100_{{$MMKD_SCHEDULE:480e}}.py',
]
model = dict(head=dict(num_classes=100))
train_dataloader = dict(batch_size={{_base_.batch_size}})
