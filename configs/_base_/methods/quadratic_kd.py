# The second-order form of KD (arXiv 2203.10163). No weight is published for it alone: this one is a starting point.
quadratic_kd = dict(quadratic_kd=dict(type='mmkd.QuadraticKDLoss', weight=1.0, temperature=1.0))
