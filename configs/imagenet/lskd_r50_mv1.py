_base_ = '../_base_/pairs/imagenet_r50_mv1.py'
model = dict(
    student=dict(head=dict(loss=dict(loss_weight=0.5))),
    losses={{_base_.lskd}},
)
