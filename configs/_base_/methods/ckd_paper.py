# CKD for the recipes of its paper, which always add ReviewKD to it (configs/ckd_paper): the RoIs of each of the 2 GPUs
# are one contrastive batch.
_base_ = ['./ckd_rcnn.py']
ckd = dict(ckd=dict(gather=False))
