# Class-aware Logit KD as published for classifiers (arXiv 2211.14773): mu 0.5, beta 2, nu 0.4 beside 0.1 of the cross entropy,
# which the recipe sets by model.task_weight.
clkd = dict(clkd=dict(type='mmkd.CLKDLoss', mu=0.5, beta=2.0, nu=0.4))
