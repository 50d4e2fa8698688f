"""LD on heads that predict the sides of a box as distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor
from typing_extensions import override

from mmkd.functional import ld_loss
from mmkd.registry import LOSSES
from mmkd.structures import TEACHER, BoxPairs, Step

from .box import BoxLoss
from .schedules import Schedule


@LOSSES.register_module()
class LDLoss(BoxLoss):
    """Localisation distillation (LD, Zheng et al., CVPR 2022) for GFL heads; the published weight is 0.25.

    See :func:`mmkd.functional.ld_loss`. By default this is the term that MMDetection's LDHead adds to GFL's losses: the
    divergence is averaged over the bins, and boxes are weighted by the *student's* highest class probability and
    summed, not averaged, so that more positives give a larger loss.

    Args:
        weight: Weight or schedule. Published: 0.25.
        temperature: τ. Published: 10.
        confidence: Network whose highest class probability weights a box: ``'student'`` (published) or ``'teacher'``.
        average: ``'none'`` (published) sums over boxes, ``'confidence'`` divides by the sum of their weights.
        samples: Config of a sampler; default ``mmkd.Positives`` (published).
        teacher: See :class:`DistillLoss`.

    Raises:
        ValueError: An option is unknown, or (in :meth:`attach`) a head has no distributions or another number of bins.
    """

    distributions: ClassVar[bool] = True

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 0.25,
        temperature: float = 10.0,
        confidence: Literal['student', 'teacher'] = 'student',
        average: Literal['none', 'confidence'] = 'none',
        samples: Mapping[str, Any] | None = None,
        teacher: str = TEACHER,
    ) -> None:
        super().__init__(weight, samples, teacher)
        if not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
            raise ValueError(f'LDLoss.temperature: {temperature!r} is not a positive number')
        if confidence not in ('student', 'teacher'):
            raise ValueError(
                f"LDLoss.confidence: {confidence!r} is neither 'student' nor 'teacher'"
            )
        if average not in ('none', 'confidence'):
            raise ValueError(f"LDLoss.average: {average!r} is neither 'none' nor 'confidence'")
        self.temperature = temperature
        self.confidence = confidence
        self.average = average

    @override
    def box_weights(self, pairs: BoxPairs) -> Tensor:
        if self.confidence == 'teacher':
            return super().box_weights(pairs)
        return pairs.student_confidence * pairs.weights

    @override
    def averaged_by(self, pairs: BoxPairs) -> Tensor | None:
        """None with ``average='none'``: the published loss is a sum; several processes take the mean of their sums."""
        return None if self.average == 'none' else super().averaged_by(pairs)

    @override
    def compute(self, pairs: BoxPairs, weights: Tensor, step: Step) -> Tensor:
        assert pairs.student_distributions is not None
        assert pairs.teacher_distributions is not None
        value = ld_loss(
            pairs.student_distributions,
            pairs.teacher_distributions,
            self.temperature,
            weights,
            avg_factor=1.0 if self.average == 'none' else None,
        )
        return value / pairs.student_distributions.shape[-1]
