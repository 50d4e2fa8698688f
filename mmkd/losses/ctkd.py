"""CTKD on the logits of softmax heads and classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.functional import ctkd_loss
from mmkd.registry import LOSSES
from mmkd.structures import LogitPairs, Step

from .logits import LogitLoss
from .schedules import Schedule, build_schedule

_CURRICULUM = dict(type='CosineWarmup', end=10)


@LOSSES.register_module()
class CTKDLoss(LogitLoss):
    """KD at a temperature that learns to make it harder (CTKD, Li et al., AAAI 2023).

    See :func:`mmkd.functional.ctkd_loss`, whose defaults are the published settings; published as 0.1 of the cross
    entropy (``model.task_weight``) and a weight of 0.9. The raw temperature is trained with the student, one for all
    samples, stages and decoder layers, and lies in checkpoints as ``distill.<name>.raw_temperature``.

    Args:
        curriculum: How much of the temperature's reversed gradient counts: a number or a schedule. The published one,
            from 0 to 1 along half a cosine in the first 10 epochs, is taken step by step and not epoch by epoch.
        **options: See :class:`mmkd.losses.LogitLoss` and the function.
    """

    function = staticmethod(ctkd_loss)
    given = (*LogitLoss.given, 'raw_temperature', 'reversal')
    activation = 'softmax'
    alternative = 'mmkd.QFLKDLoss'

    def __init__(
        self, curriculum: float | Mapping[str, Any] | Schedule = _CURRICULUM, **options: Any
    ) -> None:
        super().__init__(**options)
        self.curriculum = build_schedule(curriculum, 'CTKDLoss.curriculum')
        self.raw_temperature = nn.Parameter(torch.ones(1))

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs, step: Step) -> Tensor:
        """See :func:`mmkd.functional.ctkd_loss`."""
        return self._call(
            student,
            teacher,
            raw_temperature=self.raw_temperature,
            reversal=self.curriculum(step.progress),
            weights=pairs.weights,
        )
