# CKD on query heads: on all matched queries, of which there are as many as objects. Nothing is published for these.
ckd = dict(ckd=dict(type='mmkd.CKDLoss', weight=1.0, temperature=1.0))
