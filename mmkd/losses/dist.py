"""DIST on the logits of softmax heads and classifiers."""

from __future__ import annotations

from mmkd.functional import dist_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss


@LOSSES.register_module()
class DISTLoss(LogitLoss):
    """The teacher's relations between classes and between samples (Huang et al., NeurIPS 2022).

    See :func:`mmkd.functional.dist_loss`. Published: weight 2; temperature 1 on ImageNet, 4 on CIFAR-100. The samples
    are those of all processes; the authors' code relates those of one.
    """

    function = staticmethod(dist_loss)
    gathers = True
    activation = 'softmax'
    alternative = 'mmkd.CKDLoss (relations between samples) or mmkd.QFLKDLoss'
