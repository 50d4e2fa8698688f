_base_ = '../_base_/pairs/cifar100_resnet32x4_resnet8x4.py'
model = dict(losses={{_base_.ckd}})
