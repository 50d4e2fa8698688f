_base_ = '../_base_/pairs/imagenet_r34_r18.py'
model = dict(task_weight={{_base_.task_weight}}, losses={{_base_.kd}})
