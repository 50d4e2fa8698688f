_base_ = '../_base_/pairs/cifar100_vgg13_mobilenet_v2.py'
model = dict(
    student=dict(head=dict(loss=dict(loss_weight=0.1))),
    losses={{_base_.kd}},
)
