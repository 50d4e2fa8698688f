"""DIST on the logits of softmax heads and classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from mmkd.functional import dist_loss
from mmkd.registry import LOSSES
from mmkd.structures import Activation, LogitPairs

from .base import LogitLoss, Rows
from .schedules import Schedule


@LOSSES.register_module()
class DISTLoss(LogitLoss):
    """The teacher's relations between classes and between samples (Huang et al., NeurIPS 2022), for softmax heads.

    See :func:`mmkd.functional.dist_loss`. A sample counts with its weight in the student's own loss. The relations are
    those of one process's samples, as published: with several processes it is the mean of theirs.

    Args:
        weight: Weight or schedule. Published: 2.
        beta: β, weight of the relations between the classes of a sample.
        gamma: γ, weight of the relations between the samples of a class.
        temperature: τ. Published: 1 on ImageNet, 4 on CIFAR-100.
        samples: Config of a sampler; default all samples.
        rows: ``'raw'`` (default), ``'center'`` or ``'standardize'`` (LSKD).

    Raises:
        ValueError: An option is out of its range, or (by :meth:`attach`) the head is a sigmoid head.
    """

    activation: ClassVar[Activation | None] = 'softmax'
    instead: ClassVar[str] = 'mmkd.CKDLoss (relations between samples) or mmkd.QFLKDLoss'

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        samples: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
    ) -> None:
        super().__init__(weight, samples, rows)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature
        self._check_options('softmax')

    def averaged_by(self, pairs: LogitPairs) -> None:
        """None: samples are related to each other."""

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        """See :func:`mmkd.functional.dist_loss`."""
        return dist_loss(
            student, teacher, self.beta, self.gamma, self.temperature, weights=pairs.weights
        )
