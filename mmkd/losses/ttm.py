"""TTM and WTTM on the logits of softmax heads and classifiers."""

from __future__ import annotations

from mmkd.functional import ttm_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss


@LOSSES.register_module()
class TTMLoss(LogitLoss):
    """The teacher's probabilities raised to a power (TTM and, with ``weighted``, WTTM; Zheng, Yang; ICLR 2024).

    See :func:`mmkd.functional.ttm_loss`, also for the published settings.
    """

    function = staticmethod(ttm_loss)
    activation = 'softmax'
    alternative = 'mmkd.QFLKDLoss'
