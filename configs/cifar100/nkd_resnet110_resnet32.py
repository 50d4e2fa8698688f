_base_ = '../_base_/pairs/cifar100_resnet110_resnet32.py'
model = dict(losses={{_base_.nkd}})
