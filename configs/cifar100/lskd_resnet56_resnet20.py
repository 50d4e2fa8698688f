_base_ = '../_base_/pairs/cifar100_resnet56_resnet20.py'
model = dict(task_weight={{_base_.task_weight}}, losses={{_base_.lskd}})
