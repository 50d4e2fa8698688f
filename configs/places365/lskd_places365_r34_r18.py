_base_ = '../_base_/pairs/places365_r34_r18.py'
model = dict(
    student=dict(head=dict(loss=dict(loss_weight=0.5))),
    losses={{_base_.lskd}},
)
