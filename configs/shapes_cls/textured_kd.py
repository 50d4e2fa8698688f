_base_ = '../_base_/pairs/textured_cls.py'
model = dict(
    student=dict(head=dict(loss=dict(loss_weight=0.1))),
    losses={{_base_.kd}},
)
