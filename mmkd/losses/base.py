"""What every distillation loss has: a weight that may follow a schedule, and what it asks of the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmkd.functional import center_rows, standardize_rows
from mmkd.registry import SAMPLERS, build
from mmkd.structures import FeaturePair, LogitPairs, Step

from .samplers import AllSamples
from .schedules import Progress, Schedule, build_schedule

Rows = Literal['raw', 'center', 'standardize']


class DistillLoss(nn.Module, ABC):
    """A distillation loss: one scalar of a step, weighted by the Distiller.

    Args:
        weight: A number, or a schedule such as ``dict(type='LinearWarmup', end=20, by_epoch=True)``.
    """

    needs: ClassVar[tuple[str, ...]]
    """What the loss reads of a step: ``'logits'``, ``'features'``."""

    def __init__(self, weight: float | Mapping[str, Any] | Schedule = 1.0) -> None:
        super().__init__()
        self._schedule = build_schedule(weight, where=f'{type(self).__name__}.weight')

    def weight(self, progress: Progress) -> float:
        """The weight at this point of training."""
        return self._schedule(progress)

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The unweighted scalar loss of a step."""


class LogitLoss(DistillLoss):
    """A loss on aligned logit vectors.

    Args:
        weight: See :class:`DistillLoss`.
        samples: Config of a sampler, such as ``dict(type='mmkd.TeacherTopK', k=64)``. Default: all samples.
        rows: What is done to every logit vector first: ``'raw'`` nothing, ``'center'`` its mean is subtracted,
            ``'standardize'`` it is also divided by its standard deviation (LSKD). ``None`` is the loss's own default.
    """

    needs: ClassVar[tuple[str, ...]] = ('logits',)

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        samples: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
    ) -> None:
        super().__init__(weight)
        where = f'{type(self).__name__}.samples'
        self.sampler = AllSamples() if samples is None else build(SAMPLERS, samples, where)
        if rows not in (None, 'raw', 'center', 'standardize'):
            raise ValueError(
                f"{type(self).__name__}.rows: {rows!r} is none of 'raw', 'center', 'standardize'"
            )
        self.rows = rows

    def forward(self, step: Step) -> Tensor:
        """Mean over the head's sample tables (stages of a cascade, layers of a decoder)."""
        values = [self._on(pairs) for pairs in step.logit_pairs(self.sampler)]
        return torch.stack(values).mean()

    @abstractmethod
    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        """The scalar loss of one table.

        Args:
            student: (S, C) float logits of the student, rows preprocessed.
            teacher: (S, C) likewise of the teacher.
            pairs: Labels, weights, objects and the rest of the same samples.
        """

    def default_rows(self, pairs: LogitPairs) -> Rows:
        """How rows are preprocessed where the recipe does not say."""
        return 'raw'

    def _on(self, pairs: LogitPairs) -> Tensor:
        student, teacher = _at_least_float32(pairs.student), _at_least_float32(pairs.teacher)
        rows = self.rows or self.default_rows(pairs)
        if rows == 'center':
            student, teacher = center_rows(student), center_rows(teacher)
        elif rows == 'standardize':
            student, teacher = standardize_rows(student), standardize_rows(teacher)
        return self.compute(student, teacher, pairs)


class FeatureLoss(DistillLoss):
    """A loss on neck feature maps."""

    needs: ClassVar[tuple[str, ...]] = ('features',)

    def forward(self, step: Step) -> Tensor:
        """The scalar loss of all levels."""
        return self.compute(
            [
                FeaturePair(
                    pair.level, _at_least_float32(pair.student), _at_least_float32(pair.teacher)
                )
                for pair in step.feature_pairs
            ]
        )

    @abstractmethod
    def compute(self, pairs: list[FeaturePair]) -> Tensor:
        """The scalar loss of float feature pairs."""


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
