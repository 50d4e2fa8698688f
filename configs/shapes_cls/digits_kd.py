_base_ = '../_base_/pairs/digits_cls.py'
model = dict(task_weight={{_base_.task_weight}}, losses={{_base_.kd}})
