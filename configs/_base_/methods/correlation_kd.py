# The correlations of R2KD as published for classifiers (IEEE TKDE 2024): temperature 4, weight 2 for samples and for classes.
correlation_kd = dict(
    correlation_kd=dict(type='mmkd.CorrelationKDLoss', temperature=4.0, row_weight=2.0, columns=2.0)
)
