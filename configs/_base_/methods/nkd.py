# NKD as published: gamma 1.5, lambda (the temperature of the other classes) 1.
nkd = dict(nkd=dict(type='mmkd.NKDLoss', weight=1.0, gamma=1.5, temperature=1.0))
