"""DKD on the logits of softmax heads and classifiers."""

from __future__ import annotations

from mmkd.functional import dkd_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss


@LOSSES.register_module()
class DKDLoss(LogitLoss):
    """KD decoupled into the target class and all others (Zhao et al., CVPR 2022): :func:`mmkd.functional.dkd_loss`.

    The target is the class that the student's own assignment gave, which may be background. Published: a warm-up,
    ``weight=dict(type='LinearWarmup', end=20)``, and temperature 4 on CIFAR-100; temperature 1 elsewhere; beta 2, 6 or
    8 on CIFAR-100, 0.5 or 2 on ImageNet, 0.25 for Faster R-CNN.
    """

    function = staticmethod(dkd_loss)
    activation = 'softmax'
    alternative = "mmkd.AEKTLoss with explicit='tckd', whose target term is binary there"
