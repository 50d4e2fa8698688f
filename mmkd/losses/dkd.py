"""DKD on the logits of softmax heads and classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from mmkd.functional import dkd_loss
from mmkd.registry import LOSSES
from mmkd.structures import Activation, LogitPairs

from ._labels import targets
from .base import LogitLoss, Rows
from .schedules import Schedule


@LOSSES.register_module()
class DKDLoss(LogitLoss):
    """KD decoupled into the target class and all others (Zhao et al., CVPR 2022), for softmax heads.

    See :func:`mmkd.functional.dkd_loss`. The target is what the student's own assignment says, background included; a
    sample counts with its weight in the student's own loss.

    Args:
        weight: Weight or schedule. Published: a warm-up, ``dict(type='LinearWarmup', end=20)`` on CIFAR-100 and
            ``end=1`` on ImageNet.
        alpha: Weight of the target class.
        beta: Weight of the other classes. Published: 2, 6 or 8 on CIFAR-100, 0.5 or 2 on ImageNet, 0.25 for Faster
            R-CNN.
        temperature: τ. Published: 4 on CIFAR-100, else 1.
        samples: Config of a sampler; default all samples.
        rows: ``'raw'`` (default), ``'center'`` or ``'standardize'`` (LSKD).

    Raises:
        ValueError: An option is out of its range, or (by :meth:`attach`) the head is a sigmoid head, or (in the first
            step) the head gives no labels.
    """

    activation: ClassVar[Activation | None] = 'softmax'
    instead: ClassVar[str] = "mmkd.AEKTLoss with explicit='tckd', whose target term is binary there"

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        samples: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
    ) -> None:
        super().__init__(weight, samples, rows)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self._check_options('softmax')

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        """See :func:`mmkd.functional.dkd_loss`."""
        labels, weights = targets(pairs, 'DKDLoss')
        return dkd_loss(
            student, teacher, labels, self.alpha, self.beta, self.temperature, weights=weights
        )
