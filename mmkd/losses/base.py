"""What every distillation loss has: a weight that may follow a schedule, and what it asks of the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmkd.functional import center_rows, standardize_rows
from mmkd.functional.processes import mean_over_processes
from mmkd.registry import CONNECTORS, SAMPLERS, build
from mmkd.structures import (
    Activation,
    BoxPairs,
    FeaturePair,
    HeadSource,
    LogitPairs,
    NeckSource,
    Step,
)

from .samplers import AllSamples, Positives
from .schedules import Progress, Schedule, build_schedule, is_over

Rows = Literal['raw', 'center', 'standardize']


class DistillLoss(nn.Module, ABC):
    """A distillation loss: one scalar of a step, weighted by the Distiller.

    Args:
        weight: A number, or a schedule such as ``dict(type='LinearWarmup', end=20, by_epoch=True)``.
    """

    needs: ClassVar[tuple[str, ...]]
    """What the loss reads of a step: ``'logits'``, ``'boxes'``, ``'features'``."""

    def __init__(self, weight: float | Mapping[str, Any] | Schedule = 1.0) -> None:
        super().__init__()
        self._schedule = build_schedule(weight, where=f'{type(self).__name__}.weight')

    def weight(self, progress: Progress) -> float:
        """The weight at this point of training."""
        return self._schedule(progress)

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight is 0 from this point of training on, for ever."""
        return is_over(self._schedule, progress)

    def attach(self, head: HeadSource | None, neck: NeckSource | None) -> None:
        """Check that the loss means something on this pair and make what it trains, if anything.

        The Distiller calls it once, before the optimizer is built.

        Args:
            head: Where logits and boxes come from; not None where the loss needs one of them.
            neck: Where the features come from; not None where the loss needs them.

        Raises:
            ValueError: The loss means nothing on this pair; the message names the one to use instead.
        """

    def begin_step(self, active: bool) -> None:
        """Called before the student's own step; ``active`` is whether the weight is not 0 in it."""

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The unweighted scalar loss of a step."""


class LogitLoss(DistillLoss):
    """A loss on aligned logit vectors.

    A loss that weighs its samples does so by the weights in the student's own classification loss: what the student
    ignores is not distilled. :class:`mmkd.TeacherTopK` may pick such samples; there they count for nothing.

    Args:
        weight: See :class:`DistillLoss`.
        samples: Config of a sampler, such as ``dict(type='mmkd.TeacherTopK', k=64)``. Default: all samples.
        rows: What is done to every logit vector first: ``'raw'`` nothing, ``'center'`` its mean is subtracted,
            ``'standardize'`` it is also divided by its standard deviation (LSKD). ``None`` is the loss's own default.
    """

    needs: ClassVar[tuple[str, ...]] = ('logits',)
    activation: ClassVar[Activation | None] = None
    """The one kind of head that the loss means something on; None for any."""
    instead: ClassVar[str] = ''
    """What to use on the other kind of head, for the error."""

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

    def attach(self, head: HeadSource | None, neck: NeckSource | None) -> None:
        """See :meth:`DistillLoss.attach`."""
        super().attach(head, neck)
        assert head is not None
        if self.rows == 'standardize' and head.num_logits < 3:
            raise ValueError(
                f'{type(self).__name__}: standardised rows of {head.num_logits} logit(s) have a sign but no gradient: '
                "set rows='raw'"
            )
        if self.activation not in (None, head.activation):
            raise ValueError(
                f'{type(self).__name__} is for {self.activation} heads, the student has a '
                f'{head.activation} head: use {self.instead}'
            )

    def forward(self, step: Step) -> Tensor:
        """Mean over the head's sample tables (stages of a cascade, layers of a decoder).

        The same value on all processes. Each has the gradient of its own share, whose mean over the processes is the
        value's.
        """
        values = [self._on(pairs) for pairs in step.logit_pairs(self.sampler)]
        return mean_over_processes(torch.stack(values).mean())

    @torch.no_grad()
    def compared(self, step: Step) -> list[tuple[Tensor, Tensor, LogitPairs]]:
        """What the loss compares in a step, to be looked at: it has no gradient.

        Returns:
            Per sample table the (S, C) rows of student and teacher, preprocessed, and the pairs that they come from.
        """
        tables = []
        for pairs in step.logit_pairs(self.sampler):
            with _full_precision(pairs.student):
                student, teacher = self._preprocess(pairs)
            tables.append((student.detach(), teacher, pairs))
        return tables

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

    def student_logits(self, pairs: LogitPairs) -> Tensor:
        """(S, C) what is compared with the teacher's logits: the student's, before their rows are preprocessed."""
        return _at_least_float32(pairs.student)

    def averaged_by(self, pairs: LogitPairs) -> Tensor | None:
        """(S,) weights by which :meth:`compute` averages over samples; None where it does something else."""
        return pairs.weights

    def _on(self, pairs: LogitPairs) -> Tensor:
        with _full_precision(pairs.student):
            value = self.compute(*self._preprocess(pairs), pairs)
            weights = self.averaged_by(pairs)
            return value if weights is None else value * _share(weights).to(value)

    def _preprocess(self, pairs: LogitPairs) -> tuple[Tensor, Tensor]:
        student, teacher = self.student_logits(pairs), _at_least_float32(pairs.teacher)
        rows = self.rows or self.default_rows(pairs)
        if rows == 'center':
            student, teacher = center_rows(student), center_rows(teacher)
        elif rows == 'standardize':
            student, teacher = standardize_rows(student), standardize_rows(teacher)
        return student, teacher

    def _check_options(self, activation: Activation) -> None:
        """Compute the loss of no samples, so that a wrong option is an error now and not in the first step."""
        logits, numbers = torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
        nothing = LogitPairs(
            student=logits,
            teacher=logits,
            activation=activation,
            num_classes=2,
            labels=numbers,
            weights=torch.zeros(0),
            image_ids=numbers,
            object_ids=numbers,
        )
        try:
            self.compute(logits, logits, nothing)
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}.{error}') from None


class BoxLoss(DistillLoss):
    """A loss on aligned predicted boxes.

    A box counts with the teacher's confidence times the sample's weight in the student's own classification loss.

    Args:
        weight: See :class:`DistillLoss`.
        samples: Config of a sampler; default ``mmkd.Positives``: boxes of the background mean nothing.

    Raises:
        ValueError: (By :meth:`attach`) the heads give no pairs of boxes.
    """

    needs: ClassVar[tuple[str, ...]] = ('boxes',)
    distributions: ClassVar[bool] = False
    """The loss compares the distributions of the sides of a box."""

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        samples: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight)
        where = f'{type(self).__name__}.samples'
        self.sampler = Positives() if samples is None else build(SAMPLERS, samples, where)

    def attach(self, head: HeadSource | None, neck: NeckSource | None) -> None:
        """See :meth:`DistillLoss.attach`."""
        super().attach(head, neck)
        assert head is not None
        try:
            head.check_boxes(self.distributions)
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}: {error}') from None

    def forward(self, step: Step) -> Tensor:
        """Mean over the head's sample tables (stages of a cascade, layers of a decoder)."""
        values = [self._on(pairs) for pairs in step.box_pairs(self.sampler)]
        return mean_over_processes(torch.stack(values).mean())

    @abstractmethod
    def compute(self, pairs: BoxPairs, weights: Tensor) -> Tensor:
        """The scalar loss of one table, of boxes that count with (S,) ``weights``."""

    def box_weights(self, pairs: BoxPairs) -> Tensor:
        """(S,) how much every box counts."""
        return pairs.teacher_confidence * pairs.weights

    def averages(self) -> bool:
        """Whether :meth:`compute` is a mean over boxes, by their weights, and not a sum."""
        return True

    def _on(self, pairs: BoxPairs) -> Tensor:
        with _full_precision(pairs.student):
            weights = self.box_weights(pairs)
            value = self.compute(pairs, weights)
            return value * _share(weights).to(value) if self.averages() else value


class FeatureLoss(DistillLoss):
    """A loss on neck feature maps, of the levels that both necks have: those of equal stride.

    Args:
        weight: See :class:`DistillLoss`.
        strides: Which levels, by their strides, such as ``[8, 16, 32]``. Default: all that both necks have.
        connector: Config of a connector, such as ``dict(type='mmkd.ConvConnector')``, that brings the student's map
            to the teacher's width. There is one per level whose widths differ, trained with the student.
    """

    needs: ClassVar[tuple[str, ...]] = ('features',)
    any_width: ClassVar[bool] = False
    """The loss itself takes maps of other widths than the teacher's, and no connector."""

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        strides: Sequence[int] | None = None,
        connector: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight)
        self.strides = None if strides is None else list(strides)
        self._connector = connector
        self._levels: list[int] | None = None
        self.connectors = nn.ModuleDict()

    def attach(self, head: HeadSource | None, neck: NeckSource | None) -> None:
        """Choose the levels, and make the connectors of those that need one."""
        super().attach(head, neck)
        assert neck is not None
        if self.strides is not None:
            self._levels = self._find_levels(neck)
        if self.any_width:
            return
        for level in self._levels or range(len(neck.channels)):
            ours, theirs = neck.channels[level]
            if ours == theirs:
                continue
            if self._connector is None:
                raise ValueError(
                    f"{type(self).__name__}: the student's neck has {ours} channels, the teacher's {theirs}: set "
                    "connector=dict(type='mmkd.ConvConnector'), a layer between the two that is trained with the "
                    'student, or the same out_channels of both necks'
                )
            options = dict(self._connector, in_channels=ours, out_channels=theirs)
            where = f'{type(self).__name__}.connector'
            self.connectors[str(level)] = build(CONNECTORS, options, where)

    def forward(self, step: Step) -> Tensor:
        """The scalar loss of all levels."""
        pairs = [self._connected(pair) for pair in self._chosen(step.feature_pairs)]
        with _full_precision(pairs[0].student):
            return self.compute(pairs)

    def _chosen(self, pairs: list[FeaturePair]) -> list[FeaturePair]:
        return pairs if self._levels is None else [pairs[level] for level in self._levels]

    def _connected(self, pair: FeaturePair) -> FeaturePair:
        student, teacher = _at_least_float32(pair.student), _at_least_float32(pair.teacher)
        if str(pair.level) in self.connectors:
            with _full_precision(student):
                student = self.connectors[str(pair.level)](student)
        if student is pair.student and teacher is pair.teacher:
            return pair  # a new one would look through the maps for NaN once more
        return FeaturePair(pair.level, student, teacher)

    def _find_levels(self, neck: NeckSource) -> list[int]:
        missing = [stride for stride in self.strides or () if stride not in neck.strides]
        if missing or not self.strides:
            raise ValueError(
                f'{type(self).__name__}.strides: {missing or self.strides} cannot be distilled: both necks have '
                f'levels of stride {neck.strides}'
            )
        return [level for level, stride in enumerate(neck.strides) if stride in self.strides]

    @abstractmethod
    def compute(self, pairs: list[FeaturePair]) -> Tensor:
        """The scalar loss of float feature pairs."""


def _full_precision(values: Tensor) -> torch.autocast:
    """Only the loss leaves autocast: the teacher, which runs when its outputs are first asked for, stays in it."""
    return torch.autocast(values.device.type, enabled=False)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _share(weights: Tensor) -> Tensor:
    """This process's samples by those of an average process: turns its mean into its share of the mean of all."""
    total = weights.sum()
    mean = mean_over_processes(total)
    return torch.where(mean > 0, total / mean, torch.ones_like(total))
