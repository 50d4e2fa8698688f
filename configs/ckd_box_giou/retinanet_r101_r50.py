_base_ = [
    '../_base_/pairs/retinanet_r101_r50.py',
    '../_base_/methods/ckd_sigmoid.py',
    '../_base_/methods/box_giou.py',
]
model = dict(losses=dict(ckd={{_base_.ckd.ckd}}, box_giou={{_base_.box_giou.box_giou}}))
