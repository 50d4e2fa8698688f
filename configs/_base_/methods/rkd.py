# RKD as published for classifiers (CVPR 2019): 25 times the distances, 50 times the angles.
rkd = dict(rkd=dict(type='mmkd.RKDLoss', distance_weight=25.0, angle_weight=50.0))
