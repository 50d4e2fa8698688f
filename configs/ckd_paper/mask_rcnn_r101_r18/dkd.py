_base_ = ['../../_base_/ckd_paper/mask_rcnn_r101_r18.py', '../../_base_/methods/dkd_rcnn.py']
model = dict(losses={{_base_.dkd}})
