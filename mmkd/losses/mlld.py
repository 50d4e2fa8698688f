"""MLLD on the logits of softmax heads and classifiers."""

from __future__ import annotations

from mmkd.functional import mlld_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss


@LOSSES.register_module()
class MLLDLoss(LogitLoss):
    """Logits at several temperatures, by sample, by pairs of samples and of classes (MLLD, Jin et al., CVPR 2023).

    See :func:`mmkd.functional.mlld_loss`. Published with a weight of 0.9 beside 0.1 of the cross entropy
    (``model.task_weight``), on two views of each image; here the one is taken that the student trains on. Samples are
    those of all processes.
    """

    function = staticmethod(mlld_loss)
    gathers = True
    activation = 'softmax'
    alternative = 'mmkd.CLKDLoss'
