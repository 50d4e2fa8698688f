_base_ = '../_base_/pairs/cifar100_wrn_40_2_shufflenet_v1.py'
model = dict(
    student=dict(head=dict(loss=dict(loss_weight=0.1))),
    losses={{_base_.kd}},
)
