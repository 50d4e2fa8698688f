# KD on softmax heads. Published for ImageNet: 0.5 CE + 0.5 KD at temperature 1, that is equal weights. For CIFAR-100:
# 0.1 CE + 0.9 KD at temperature 4, that is weight=9, temperature=4. Here the task's loss always keeps its own weight.
kd = dict(kd=dict(type='mmkd.KDLoss', weight=1.0, temperature=1.0))
