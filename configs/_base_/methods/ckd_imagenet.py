# CKD as published for ImageNet, both pairs: weight 10, temperature 1. A process's images form one contrastive batch.
ckd = dict(ckd=dict(type='mmkd.CKDLoss', weight=10.0, temperature=1.0))
