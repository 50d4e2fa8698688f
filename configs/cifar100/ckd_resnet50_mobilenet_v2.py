_base_ = '../_base_/pairs/cifar100_resnet50_mobilenet_v2.py'
model = dict(losses={{_base_.ckd}})
