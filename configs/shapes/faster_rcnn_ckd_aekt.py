_base_ = [
    '../_base_/pairs/faster_rcnn_shapes.py',
    '../_base_/methods/ckd_rcnn.py',
    '../_base_/methods/aekt_softmax.py',
]
model = dict(losses=dict(ckd={{_base_.ckd.ckd}}, aekt={{_base_.aekt.aekt}}))
