# CKD as published for Faster and Mask R-CNN: on the RoIs that the student sampled, background included; RoIs of one
# object are negatives of each other. The contrastive batch is that of all GPUs; published is each GPU's own, which
# configs/ckd_paper has.
ckd = dict(ckd=dict(type='mmkd.CKDLoss', weight=0.1, temperature=1.0, same_object='keep'))
