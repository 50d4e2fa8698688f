# DKD as published for Faster R-CNN: on the RoIs that the student sampled, background included.
dkd = dict(dkd=dict(type='mmkd.DKDLoss', weight=1.0, alpha=1.0, beta=0.25, temperature=1.0))
