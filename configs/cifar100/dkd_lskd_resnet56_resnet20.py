_base_ = '../_base_/pairs/cifar100_resnet56_resnet20.py'
model = dict(losses={{_base_.dkd_lskd}})
