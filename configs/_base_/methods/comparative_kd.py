# Comparative KD (arXiv 2311.02253): weight 1. Published without the cross entropy (model.task_weight=0) and with a fine-tuning
# after it, in groups of two and three samples; here all pairs of a batch.
comparative_kd = dict(comparative_kd=dict(type='mmkd.ComparativeKDLoss', weight=1.0))
