_base_ = '../_base_/pairs/cifar100_vgg13_mobilenet_v2.py'
model = dict(task_weight={{_base_.task_weight}}, losses={{_base_.kd}})
