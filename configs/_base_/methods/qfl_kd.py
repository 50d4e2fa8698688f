# QFL-KD on sigmoid heads as CrossKD and BCKD publish it for their scores: over all anchors, divided by the number of
# positives, beta 1, weight 1.
qfl_kd = dict(qfl_kd=dict(type='mmkd.QFLKDLoss', weight=1.0, beta=1.0))
