_base_ = '../_base_/pairs/cifar100_resnet32x4_shufflenet_v2.py'
model = dict(losses={{_base_.lskd}})
