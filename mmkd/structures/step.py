"""One training step as the losses see it: pairs that are built once, when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from .classes import ClassMap
from .pairs import Activation, BoxPairs, FeaturePair, LogitPairs
from .samples import Sampler, SampleTable


class HeadSource(Protocol):
    """Makes sample tables of what a head's taps recorded."""

    @property
    def activation(self) -> Activation:
        """What turns a row of the student's logits into probabilities."""
        ...

    @property
    def num_logits(self) -> int:
        """C, the logits of one sample of the student."""
        ...

    def check_boxes(self, distributions: bool = False) -> None:
        """Raise ValueError unless both heads predict boxes that can be paired, as distributions if these are asked."""
        ...

    def fold_into_class_layers(
        self, fold: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> None:
        """Let the layers that put out the student's logits run with folded weights (weight and bias to those used).

        The tables go on giving what they put out with their own weights.
        """
        ...

    def tables(self, step: Step) -> list[SampleTable]:
        """One table per set of predictions: one for most heads, one per stage of a cascade."""
        ...


class NeckSource(Protocol):
    """Makes feature pairs of what the neck's tap recorded."""

    channels: list[tuple[int, int]]
    """Channels of student and teacher, one pair per feature level; known before the first step."""
    strides: list[int]
    """Pixels of the input per cell of the map, one per feature level."""

    def feature_pairs(self, step: Step) -> list[FeaturePair]:
        """One pair per feature level."""
        ...


@dataclass
class TeacherPass:
    """The teacher on the pixels of one step: it runs when its features are first read, and only once.

    Tables refer to it and not to the step, which refers to them: without a cycle a step's graph is freed at its end.

    Attributes:
        inputs: (B, 3, H, W) the student's normalised input.
        data_samples: The batch's data samples.
        run: Runs the teacher's backbone and neck on them.
        classes: Brings the logits of the teacher's head to the student's classes.
        precision: Gives the context in which the teacher's head runs.
    """

    inputs: Tensor
    data_samples: Sequence[Any]
    run: Callable[[Tensor, Sequence[Any]], tuple[Tensor, ...]]
    classes: ClassMap = field(default_factory=ClassMap)
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext

    @cached_property
    def features(self) -> tuple[Tensor, ...]:
        """The teacher's neck outputs, shallow to deep."""
        return self.run(self.inputs, self.data_samples)


@dataclass
class Step:
    """What a batch left behind in the student, and access to the teacher.

    Attributes:
        inputs: (B, 3, H, W) the student's normalised input.
        data_samples: The batch's data samples.
        records: What each tap recorded, by the tap's name, in the order of the calls.
        run_teacher: Runs the teacher's backbone and neck on the step's input.
        head: Source of logit and box pairs, None when no loss asks for either.
        neck: Source of feature pairs, None when no active loss asks for features.
        classes: Brings the logits of the teacher's head to the student's classes.
        teacher_precision: Gives the context in which the teacher's head runs.
    """

    inputs: Tensor
    data_samples: Sequence[Any]
    records: dict[str, list[Any]]
    run_teacher: Callable[[Tensor, Sequence[Any]], tuple[Tensor, ...]]
    head: HeadSource | None = None
    neck: NeckSource | None = None
    classes: ClassMap = field(default_factory=ClassMap)
    teacher_precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    _pairs: dict[Sampler, list[LogitPairs]] = field(default_factory=dict, init=False)
    _box_pairs: dict[Sampler, list[BoxPairs]] = field(default_factory=dict, init=False)

    @cached_property
    def teacher(self) -> TeacherPass:
        """The teacher on the step's pixels."""
        return TeacherPass(
            self.inputs, self.data_samples, self.run_teacher, self.classes, self.teacher_precision
        )

    @property
    def teacher_features(self) -> tuple[Tensor, ...]:
        """The teacher's neck outputs on the same pixels; the teacher runs when this is first read."""
        return self.teacher.features

    @cached_property
    def tables(self) -> list[SampleTable]:
        """The head's sample tables."""
        if self.head is None:
            raise RuntimeError('no head adapter: a loss on logits or boxes was built without one')
        return self.head.tables(self)

    def logit_pairs(self, sampler: Sampler) -> list[LogitPairs]:
        """Pairs at the samples that ``sampler`` picks, one per table; shared by losses with equal samplers."""
        if sampler not in self._pairs:
            self._pairs[sampler] = [table.pairs(sampler) for table in self.tables]
        return self._pairs[sampler]

    def box_pairs(self, sampler: Sampler) -> list[BoxPairs]:
        """Pairs of predicted boxes at the samples that ``sampler`` picks, one per table; shared likewise."""
        if sampler not in self._box_pairs:
            self._box_pairs[sampler] = [
                table.box_pairs(sampler, self.image_sizes) for table in self.tables
            ]
        return self._box_pairs[sampler]

    @cached_property
    def image_sizes(self) -> Tensor:
        """(B, 2) width and height of the images in pixels, without padding."""
        shapes = [sample.metainfo['img_shape'][:2] for sample in self.data_samples]
        sizes = torch.tensor(shapes, dtype=torch.float, device=self.inputs.device)
        return sizes.view(-1, 2).flip(1)

    @cached_property
    def feature_pairs(self) -> list[FeaturePair]:
        """Neck feature pairs, one per level."""
        if self.neck is None:
            raise RuntimeError('no neck adapter: a loss on features was built without one')
        return self.neck.feature_pairs(self)

    def record(self, tap: str) -> list[Any]:
        """What ``tap`` recorded in this step.

        Raises:
            RuntimeError: The tap never fired.
        """
        if not self.records.get(tap):
            raise RuntimeError(
                f'the tap on {tap!r} recorded nothing in this step: the student did not call it while '
                'computing its loss. A subclass that overrides this call needs a head adapter of its '
                'own (mmkd.heads.register_head_adapter)'
            )
        return self.records[tap]
