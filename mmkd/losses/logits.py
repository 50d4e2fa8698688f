"""Losses on aligned logit vectors."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from mmkd.functional import center_rows, standardize_rows
from mmkd.functional.processes import gather_rows, mean_over_processes, world_size
from mmkd.functional.rows import at_least_float32
from mmkd.registry import SAMPLERS, build
from mmkd.structures import (
    TEACHER,
    Activation,
    LogitPairs,
    Logits,
    Request,
    Sampler,
    Sources,
    Step,
)

from .base import DistillLoss, full_precision, share
from .samplers import AllSamples
from .schedules import Schedule

Rows = Literal['raw', 'center', 'standardize']
Target = Literal['assigned', 'teacher']


class LogitLoss(DistillLoss, ABC):
    """A loss on aligned logit vectors: by default ``function`` of the (S, C) logits of student and teacher.

    Samples are weighted as in the student's own classification loss, if the function takes weights. Samples that the
    student ignores have weight 0, even if :class:`mmkd.TeacherTopK` picks them.

    Args:
        weight: See :class:`DistillLoss`.
        samples: Config of a sampler, such as ``dict(type='mmkd.TeacherTopK', k=64)``. Default: all samples; on sigmoid
            heads :attr:`samples_of_sigmoid_heads`.
        rows: Preprocessing of every logit vector: ``'raw'`` for none, ``'center'`` to subtract its mean,
            ``'standardize'`` to also divide by its standard deviation (LSKD). ``None``: the loss's own default.
        target: The target class of a sample, for functions that take ``labels``: ``'assigned'`` is that of the
            student's own assignment, ``'teacher'`` the one with the teacher's highest logit, so that samples that the
            assignment calls background, and rows without labels, have a target as well. Default: ``'teacher'`` on
            sigmoid heads, whose background has no logit, ``'assigned'`` on others.
        teacher: See :class:`DistillLoss`.
        **options: Options of ``function``.

    Raises:
        ValueError: An option is out of its range, (in :meth:`attach`) the head is of the other kind, or (in the first
            step) the function needs labels and the head has none.
    """

    activation: ClassVar[Activation | None] = None
    """The kind of head that the loss is for; None for any."""
    alternative: ClassVar[str] = ''
    """What to use on the other kind of head, for the error."""
    samples_of_sigmoid_heads: ClassVar[Sampler] = AllSamples()
    """The default of ``samples`` on sigmoid heads, most of whose samples are background."""

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        samples: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
        target: Target | None = None,
        teacher: str = TEACHER,
        **options: Any,
    ) -> None:
        super().__init__(weight, teacher, **options)
        where = f'{type(self).__name__}.samples'
        self._samples_given = samples is not None
        self.crossed: int | None = None
        self.sampler: Sampler = AllSamples() if samples is None else build(SAMPLERS, samples, where)
        if rows not in (None, 'raw', 'center', 'standardize'):
            raise ValueError(
                f"{type(self).__name__}.rows: {rows!r} is none of 'raw', 'center', 'standardize'"
            )
        self.rows = rows
        if target not in (None, *get_args(Target)):
            raise ValueError(
                f'{type(self).__name__}.target: {target!r} is neither of {", ".join(get_args(Target))}'
            )
        self._has_target = self.function is not None and self._takes('labels')
        if target == 'teacher' and not self._has_target:
            raise ValueError(
                f"{type(self).__name__}.target: 'teacher': the loss has no target class"
            )
        self.target: Target | None = target
        if self.function is not None:
            self._check_logits(self.activation or 'sigmoid')

    def requests(self) -> tuple[Request[Any], ...]:
        """The logits at the samples that the sampler picks."""
        return (Logits(self.teacher, self.crossed, samples=self.sampler),)

    @override
    def attach(self, sources: Sources) -> None:
        super().attach(sources)
        head = sources.of(self.requests()[0])
        if self.rows == 'standardize' and head.num_logits < 3:
            raise ValueError(
                f'{type(self).__name__}: standardised rows of {head.num_logits} logit(s) have a sign but no gradient: '
                "set rows='raw'"
            )
        if self.target is None:
            self.target = 'teacher' if head.activation == 'sigmoid' else 'assigned'
        if self._has_target and self.target == 'assigned' and not head.has_labels:
            raise ValueError(
                f'{type(self).__name__}.samples: the loss needs the class of every sample, which shared queries do not '
                "have: set target='teacher', or use mmkd.CKDLoss, mmkd.KDLoss (softmax heads) or mmkd.QFLKDLoss "
                '(sigmoid heads)'
            )
        if self.activation not in (None, head.activation):
            raise ValueError(
                f'{type(self).__name__} is for {self.activation} heads, the student has a '
                f'{head.activation} head: use {self.alternative}'
            )
        if self.function is not None:
            self._check_logits(head.activation)
        if head.activation == 'sigmoid' and not self._samples_given:
            self.sampler = self.samples_of_sigmoid_heads

    def forward(self, step: Step) -> Tensor:
        """Mean over the head's sample tables (stages of a cascade, layers of a decoder)."""
        values = [self._on(pairs, step) for pairs in step.ask(self.requests()[0])]
        return mean_over_processes(torch.stack(values).mean())

    @torch.no_grad()
    def compared(self, step: Step) -> list[tuple[Tensor, Tensor, LogitPairs]]:
        """What the loss compares in a step, to be looked at: it has no gradient.

        Returns:
            Per sample table the (S, C) rows of student and teacher, preprocessed, and the pairs that they come from.
        """
        tables = []
        for pairs in step.ask(self.requests()[0]):
            with full_precision(pairs.student):
                student, teacher = self._preprocess(pairs)
            tables.append((student.detach(), teacher, pairs))
        return tables

    def same_object(self, pairs: LogitPairs, picked: Tensor) -> Tensor:
        """(n, n) whether two of the (n,) ``picked`` samples show the same object and are no rivals."""
        groups = pairs.object_groups[picked]
        return (groups[:, None] == groups) & (groups >= 0)

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs, step: Step) -> Tensor:
        """The scalar loss of one table.

        Args:
            student: (S, C) float logits of the student, rows preprocessed.
            teacher: (S, C) likewise of the teacher.
            pairs: Labels, weights, objects and the rest of the same samples.
            step: Ground truth, image sizes, progress, random numbers.
        """
        given: dict[str, Any] = {}
        if self._has_target:
            given['labels'], given['weights'] = self.targets(pairs)
        elif self._takes('weights'):
            given['weights'] = pairs.weights
        if self._takes('activation'):
            given['activation'] = pairs.activation
        return self._call(student, teacher, **given)

    def default_rows(self, activation: Activation) -> Rows:
        """How rows are preprocessed by default."""
        return 'raw'

    def student_logits(self, pairs: LogitPairs) -> Tensor:
        """(S, C) the student's logits that are compared with the teacher's, before preprocessing."""
        return at_least_float32(pairs.student)

    def averaged_by(self, pairs: LogitPairs) -> Tensor | None:
        """(S,) the weights with which :meth:`compute` averages over samples; None if it does not average."""
        if self.gathers:
            return None
        return self.targets(pairs)[1] if self._has_target else pairs.weights

    def targets(self, pairs: LogitPairs) -> tuple[Tensor, Tensor]:
        """The target class of each sample, and the weight with which it counts.

        A sample without a logit of its assigned class has no target: background on sigmoid heads. It stays in place
        with weight 0, so that no device has to wait for the number of the others.

        Returns:
            (S,) labels within [0, C) and (S,) weights.

        Raises:
            ValueError: The head gives no labels.
        """
        if self.target == 'teacher':
            return pairs.teacher.argmax(1), pairs.weights
        if pairs.labels is None:
            raise ValueError(
                f'{type(self).__name__} needs the class of every sample, and this head gives no labels: set '
                "target='teacher', or use mmkd.KDLoss (softmax heads), mmkd.QFLKDLoss (sigmoid heads) or mmkd.CKDLoss"
            )
        has_target = (pairs.labels >= 0) & (pairs.labels < pairs.student.shape[1])
        return pairs.labels.where(has_target, 0), pairs.weights * has_target

    def _on(self, pairs: LogitPairs, step: Step) -> Tensor:
        with full_precision(pairs.student):
            student, teacher = self._preprocess(pairs)
            if self.gathers and world_size() > 1:
                student, teacher, pairs = _gather(student, teacher, pairs)
            value = self.compute(student, teacher, pairs, step)
            weights = self.averaged_by(pairs)
            return value if weights is None else value * share(weights).to(value)

    def _preprocess(self, pairs: LogitPairs) -> tuple[Tensor, Tensor]:
        student, teacher = self.student_logits(pairs), at_least_float32(pairs.teacher)
        rows = self.rows or self.default_rows(pairs.activation)
        if rows == 'center':
            student, teacher = center_rows(student), center_rows(teacher)
        elif rows == 'standardize':
            student, teacher = standardize_rows(student), standardize_rows(teacher)
        return student, teacher

    def _check_logits(self, activation: Activation) -> None:
        """Check that the function accepts the options on this kind of head."""
        given: dict[str, Any] = {'activation': activation} if self._takes('activation') else {}
        if self._takes('labels'):
            given['labels'] = torch.zeros(0, dtype=torch.long)
        if self._takes('gather'):
            given['gather'] = False  # no other process takes part here
        if self._takes('boxes'):
            given['boxes'] = torch.zeros(0, 4)
        logits = torch.zeros(0, 2)
        self._check_options(logits, logits, **given)


def _gather(
    student: Tensor, teacher: Tensor, pairs: LogitPairs
) -> tuple[Tensor, Tensor, LogitPairs]:
    """Rows, labels and weights of the samples of all processes."""
    parts = [student, teacher, pairs.weights[:, None].to(student)]
    if pairs.labels is not None:
        parts.append(pairs.labels[:, None].to(student))
    rows, _ = gather_rows(torch.cat(parts, dim=1))
    student, teacher, weights, *labels = rows.split([part.shape[1] for part in parts], dim=1)
    gathered = replace(
        pairs,
        student=student,
        teacher=teacher.detach(),
        weights=weights[:, 0].detach(),
        labels=labels[0][:, 0].detach().long() if labels else None,
    )
    return student, gathered.teacher, gathered
