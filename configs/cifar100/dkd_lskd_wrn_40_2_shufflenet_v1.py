_base_ = '../_base_/pairs/cifar100_wrn_40_2_shufflenet_v1.py'
model = dict(losses={{_base_.dkd_lskd}})
