_base_ = '../_base_/pairs/cifar100_resnet32x4_shufflenet_v1.py'
model = dict(losses={{_base_.aekt}})
