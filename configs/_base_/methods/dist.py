# DIST as published: beta = gamma = 1, weight 2, temperature 1 (ImageNet). On CIFAR-100 the temperature is 4.
dist = dict(dist=dict(type='mmkd.DISTLoss', weight=2.0, beta=1.0, gamma=1.0, temperature=1.0))
