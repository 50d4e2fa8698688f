_base_ = '../_base_/pairs/cifar100_wrn_40_2_wrn_16_2.py'
model = dict(task_weight={{_base_.task_weight}}, losses={{_base_.lskd}})
