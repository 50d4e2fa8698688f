_base_ = '../_base_/pairs/cifar100_resnet32x4_resnet8x4.py'
model = dict(task_weight={{_base_.task_weight}}, losses={{_base_.lskd}})
