_base_ = '../_base_/pairs/cifar100_vgg13_vgg8.py'
model = dict(losses={{_base_.dist}})
