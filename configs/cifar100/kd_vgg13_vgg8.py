_base_ = '../_base_/pairs/cifar100_vgg13_vgg8.py'
model = dict(task_weight={{_base_.task_weight}}, losses={{_base_.kd}})
