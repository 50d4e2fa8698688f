_base_ = ['../_base_/pairs/fcos_shapes.py', '../_base_/methods/qfl_kd.py']
model = dict(losses={{_base_.qfl_kd}})
