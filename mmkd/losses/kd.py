"""KD on the logits of softmax heads and classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from mmkd.functional import kd_loss
from mmkd.registry import LOSSES
from mmkd.structures import Activation, LogitPairs

from .base import LogitLoss, Rows
from .schedules import Schedule


@LOSSES.register_module()
class KDLoss(LogitLoss):
    """The teacher's softened class probabilities (Hinton et al., 2015), for softmax heads.

    See :func:`mmkd.functional.kd_loss`. A sample counts with its weight in the student's own loss.

    Args:
        weight: Weight or schedule.
        temperature: τ. Published: 4 on CIFAR-100, 1 on ImageNet.
        samples: Config of a sampler; default all samples.
        rows: ``'raw'`` (default), ``'center'`` or ``'standardize'`` (LSKD; published with τ 2 and weight 9).

    Raises:
        ValueError: An option is out of its range, or (by :meth:`attach`) the head is a sigmoid head.
    """

    activation: ClassVar[Activation | None] = 'softmax'
    instead: ClassVar[str] = 'mmkd.QFLKDLoss'

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        temperature: float = 4.0,
        samples: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
    ) -> None:
        super().__init__(weight, samples, rows)
        self.temperature = temperature
        self._check_options('softmax')

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        """See :func:`mmkd.functional.kd_loss`."""
        return kd_loss(student, teacher, self.temperature, pairs.weights)
