"""KD on the logits of softmax heads and classifiers."""

from __future__ import annotations

from mmkd.functional import kd_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss


@LOSSES.register_module()
class KDLoss(LogitLoss):
    """The teacher's softened class probabilities (Hinton et al., 2015): :func:`mmkd.functional.kd_loss`.

    Published: temperature 4 on CIFAR-100, 1 on ImageNet; with ``rows='standardize'`` (LSKD) temperature 2 and weight 9.
    """

    function = staticmethod(kd_loss)
    activation = 'softmax'
    alternative = 'mmkd.QFLKDLoss'
