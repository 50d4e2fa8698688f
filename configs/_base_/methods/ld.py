# LD on GFL heads as published, and as LDHead of MMDetection has it: weight 0.25, temperature 10, on the positives, weighted
# by the student's highest class probability and summed over boxes. Published with MMDetection for GFL R50 (1x) under R101:
# 41.0 box AP after 40.2; not run here.
ld = dict(ld=dict(type='mmkd.LDLoss', weight=0.25, temperature=10.0))
