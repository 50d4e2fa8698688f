_base_ = '../_base_/pairs/cifar100_vgg13_mobilenet_v2.py'
model = dict(losses={{_base_.aekt}})
