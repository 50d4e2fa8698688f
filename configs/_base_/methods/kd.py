# KD on softmax heads. Nothing is published for detectors: as on ImageNet, where 0.5 CE + 0.5 KD are published, KD at
# temperature 1 weighs as much as the student's own losses, which keep their weight here (model.task_weight is 1).
kd = dict(kd=dict(type='mmkd.KDLoss', weight=1.0, temperature=1.0))
