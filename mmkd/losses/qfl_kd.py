"""QFL-KD on the scores of sigmoid heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mmkd.functional import qfl_kd_loss
from mmkd.functional.processes import mean_over_processes
from mmkd.registry import LOSSES
from mmkd.structures import Activation, LogitPairs, SampleTable, Step

from .base import LogitLoss
from .schedules import Schedule


@LOSSES.register_module()
class QFLKDLoss(LogitLoss):
    """The quality focal loss with the teacher's scores as targets, for sigmoid heads.

    The score term of CrossKD and BCKD, see :func:`mmkd.functional.qfl_kd_loss`. A sample counts with its weight in the
    student's own loss. It compares scores, which shift with every logit: there is nothing to preprocess in a row.

    Args:
        weight: Weight or schedule. Published: 1.
        beta: β, exponent of the modulating factor: 0, or at least 1. Published: 1.
        average: What the sum over samples is divided by: ``'positives'`` (published), the number of positives of the
            head, averaged over all processes, whichever samples were picked; ``'samples'`` the sum of the picked
            samples' weights, for heads without labels.
        samples: Config of a sampler; default all samples, that is all anchors (published).

    Raises:
        ValueError: An option is out of its range, or (by :meth:`attach`) the head is a softmax head, or (in the first
            step) the head gives no labels and ``average`` is ``'positives'``.
    """

    activation: ClassVar[Activation | None] = 'sigmoid'
    instead: ClassVar[str] = 'mmkd.KDLoss'

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        beta: float = 1.0,
        average: Literal['positives', 'samples'] = 'positives',
        samples: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, samples)
        if average not in ('positives', 'samples'):
            raise ValueError(f"QFLKDLoss.average: {average!r} is neither 'positives' nor 'samples'")
        self.beta = beta
        self.average = average
        self._check_options('sigmoid')

    def forward(self, step: Step) -> Tensor:
        """Mean over the head's sample tables, each divided by its own number of positives."""
        if self.average == 'samples':
            return super().forward(step)
        values = [
            self._on(pairs) / _mean_positives(table).clamp(min=1)
            for table, pairs in zip(step.tables, step.logit_pairs(self.sampler), strict=True)
        ]
        return mean_over_processes(torch.stack(values).mean())

    def averaged_by(self, pairs: LogitPairs) -> Tensor | None:
        """The samples' weights for ``average='samples'``, else None: what divides is that of all processes already."""
        return pairs.weights if self.average == 'samples' else None

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        """Their mean for ``average='samples'``, else their sum; see :func:`mmkd.functional.qfl_kd_loss`."""
        avg_factor = 1 if self.average == 'positives' else None
        return qfl_kd_loss(student, teacher, self.beta, pairs.weights, avg_factor)


def _mean_positives(table: SampleTable) -> Tensor:
    """Positives of all processes by the number of processes, so that averaged gradients are those of one process."""
    if table.labels is None:
        raise ValueError(
            "QFLKDLoss divides by the number of positives, and this head gives no labels: set average='samples'"
        )
    return mean_over_processes(table.is_foreground().sum().float())
