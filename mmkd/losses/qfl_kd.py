"""QFL-KD on the scores of sigmoid heads."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from mmkd.functional import qfl_kd_loss
from mmkd.functional.processes import mean_over_processes
from mmkd.registry import LOSSES
from mmkd.structures import LogitPairs, SampleTable, Sources, Step

from .logits import LogitLoss


@LOSSES.register_module()
class QFLKDLoss(LogitLoss):
    """The quality focal loss with the teacher's scores as targets, for sigmoid heads.

    The score term of CrossKD and BCKD, see :func:`mmkd.functional.qfl_kd_loss`. Samples are weighted as in the
    student's own loss. It compares scores, which preprocessing would change: ``rows`` has to be ``'raw'``.
    Published: weight 1, beta 1, all anchors.

    Args:
        average: The divisor of the sum over samples. ``'positives'`` (published): the number of the head's positives,
            averaged over all processes, independent of the samples picked. ``'samples'``: the sum of the picked
            samples' weights, for heads without labels.
        **options: See :class:`mmkd.losses.LogitLoss` and :func:`mmkd.functional.qfl_kd_loss`.

    Raises:
        ValueError: An option is out of its range, (in :meth:`attach`) the head is a softmax head, or (in the first
            step) the head has no labels and ``average`` is ``'positives'``.
    """

    function = staticmethod(qfl_kd_loss)
    activation = 'sigmoid'
    alternative = 'mmkd.KDLoss'

    def __init__(
        self, average: Literal['positives', 'samples'] = 'positives', **options: Any
    ) -> None:
        super().__init__(**options)
        if average not in ('positives', 'samples'):
            raise ValueError(f"QFLKDLoss.average: {average!r} is neither 'positives' nor 'samples'")
        if self.rows not in (None, 'raw'):
            raise ValueError(
                f"QFLKDLoss.rows: {self.rows!r} changes the scores, which this loss compares: use 'raw'"
            )
        self.average = average

    @override
    def attach(self, sources: Sources) -> None:
        super().attach(sources)
        if self.average == 'positives' and not sources.of(self.requests()[0]).has_labels:
            raise ValueError(
                "QFLKDLoss.average: 'positives' counts the student's, and shared queries have none: set "
                "average='samples'"
            )

    def forward(self, step: Step) -> Tensor:
        """Mean over the head's sample tables, each divided by its own number of positives."""
        if self.average == 'samples':
            return super().forward(step)
        (request,) = self.requests()
        tables = step.sources.of(request).sample_tables(step)
        values = [
            self._on(pairs, step) / mean_positives(table).clamp(min=1)
            for table, pairs in zip(tables, step.ask(request), strict=True)
        ]
        return mean_over_processes(torch.stack(values).mean())

    def averaged_by(self, pairs: LogitPairs) -> Tensor | None:
        """The samples' weights for ``average='samples'``, else None: the sum is divided by all processes' positives."""
        return pairs.weights if self.average == 'samples' else None

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs, step: Step) -> Tensor:
        """Their mean for ``average='samples'``, else their sum; see :func:`mmkd.functional.qfl_kd_loss`."""
        avg_factor = 1 if self.average == 'positives' else None
        return self._call(student, teacher, weights=pairs.weights, avg_factor=avg_factor)


def mean_positives(table: SampleTable) -> Tensor:
    """Positives of all processes by the number of processes, so that averaged gradients are those of one process."""
    if table.labels is None:
        raise ValueError(
            "QFLKDLoss divides by the number of positives, and this head gives no labels: set average='samples'"
        )
    return mean_over_processes(table.is_foreground().sum().float())
