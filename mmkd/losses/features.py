"""Losses on features: maps of any module of both networks, or pooled features of classifiers."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmkd.functional.processes import gather_rows, mean_over_processes, world_size
from mmkd.functional.rows import at_least_float32
from mmkd.registry import CONNECTORS, build
from mmkd.structures import (
    NECK,
    PRE_LOGITS,
    TEACHER,
    ClassMaps,
    FeaturePair,
    Features,
    Request,
    Sources,
    Step,
)

from .base import DistillLoss, full_precision, share
from .schedules import Schedule

CLASS_MAPS = 'class_maps'
"""``at`` of the class logits of dense heads, as maps."""


class FeatureLoss(DistillLoss, ABC):
    """A loss on feature maps: by default ``function`` of a level's maps, summed over the levels.

    Args:
        weight: See :class:`DistillLoss`.
        at: Path of the student's module whose outputs are compared, such as ``'neck'`` (default), ``'backbone.layer3'``
            or ``'bbox_head.cls_convs.3'``; with ``.before_relu`` at the end, the input of the ReLU at the end of the
            module; ``'pre_logits'`` for the (B, C) features that a classifier's class layer reads; ``'class_maps'`` for
            the class logits of dense heads; or a list of these, whose levels are joined, shallow to deep.
        teacher_at: The same for the teacher, in the same order; default: ``at``.
        strides: Strides of the levels to compare, such as ``[8, 16, 32]``. Default: all that both networks have there.
        connector: Config of a connector, such as ``dict(type='mmkd.ConvConnector')``, that brings the student's
            features to the teacher's width. Each level whose widths differ gets one, trained with the student; some
            losses always have one at every level.
        teacher: See :class:`DistillLoss`.
        **options: Options of ``function``.

    Raises:
        ValueError: ``at`` and ``teacher_at`` are of different lengths, an option is out of its range, or (by
            :meth:`attach`) the networks have no such features.
    """

    given: ClassVar[tuple[str, ...]] = (
        *DistillLoss.given,
        'stride',
        'strides',
        'student_context',
        'teacher_context',
        'gather',
    )
    any_width: ClassVar[bool] = False
    """Whether the loss compares features of different widths without a connector."""
    own_connector: ClassVar[Mapping[str, Any] | None] = None
    """A connector that the loss always needs, at every level, even if the widths are equal."""
    pooled: ClassVar[bool | None] = False
    """The loss compares (B, C) features, not maps; None where it compares either."""

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        at: str | Sequence[str] | None = None,
        teacher_at: str | Sequence[str] | None = None,
        strides: Sequence[int] | None = None,
        connector: Mapping[str, Any] | None = None,
        teacher: str = TEACHER,
        **options: Any,
    ) -> None:
        super().__init__(weight, teacher, **options)
        if at is None:
            at = PRE_LOGITS if self.pooled else NECK
        self.at = _paths(at, f'{type(self).__name__}.at')
        self.teacher_at: list[str] | list[None] = [None] * len(self.at)
        if teacher_at is not None:
            self.teacher_at = _paths(teacher_at, f'{type(self).__name__}.teacher_at')
        if len(self.at) != len(self.teacher_at) or not self.at:
            raise ValueError(
                f'{type(self).__name__}: at names {len(self.at)} modules, teacher_at {len(self.teacher_at)}: name the '
                "teacher's modules in the order of the student's"
            )
        for ours, theirs in zip(self.at, self.teacher_at, strict=True):
            if theirs not in (None, ours) and CLASS_MAPS in (ours, theirs):
                raise ValueError(
                    f'{type(self).__name__}.teacher_at: {CLASS_MAPS!r} are compared with those of the other network '
                    f'only, not with what is at {theirs if ours == CLASS_MAPS else ours!r}: leave teacher_at out'
                )
        if strides is not None and not isinstance(strides, list | tuple):
            raise ValueError(
                f'{type(self).__name__}.strides: {strides!r} is no list of strides, such as [8, 16]'
            )
        self.strides = None if strides is None else list(strides)
        self._connector = self.own_connector if connector is None else connector
        self._levels: list[int] = []
        self.connectors = nn.ModuleDict()
        if self.function is not None:
            none = torch.zeros(0, 2) if self.pooled else torch.zeros(0, 2, 1, 1)
            nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
            pair = FeaturePair(0, 1, none, none)
            [(features, given)] = self._arguments([pair], nothing, gather=False)
            self._check_options(*features, **given)

    def requests(self) -> tuple[Request[Any], ...]:
        """The features at every path."""
        return self._feature_requests()

    def _feature_requests(self) -> tuple[Request[FeaturePair], ...]:
        return tuple(
            ClassMaps(self.teacher)
            if ours == CLASS_MAPS
            else Features(self.teacher, at=ours, teacher_at=theirs)
            for ours, theirs in zip(self.at, self.teacher_at, strict=True)
        )

    def attach(self, sources: Sources) -> None:
        """Choose the levels, and build connectors for those that need one.

        Raises:
            ValueError: A level does not exist, is pooled although the loss compares maps, or the other way round; or
                widths differ and there is no connector.
        """
        super().attach(sources)
        channels: list[tuple[int, int]] = []
        strides: list[int | None] = []
        for request in self._feature_requests():
            source = sources.of(request)
            if isinstance(request, ClassMaps):
                for width, stride in source.class_map_levels():
                    channels.append((width, width))
                    strides.append(stride)
            else:
                channels += source.channels
                strides += source.strides
        self._check_ranks(strides)
        self._levels = self._find_levels(strides)
        self._make_layers({level: channels[level] for level in self._levels})

    def forward(self, step: Step) -> Tensor:
        """The scalar loss of all levels, averaged over the images of all processes."""
        pairs = [pair for request in self._feature_requests() for pair in step.ask(request)]
        pairs = [
            replace(self._connected(level, pairs[level]), level=number)
            for number, level in enumerate(self._levels)
        ]
        with full_precision(pairs[0].student):
            if self.gathers and world_size() > 1:
                pairs = [_gather(pair) for pair in pairs]
            value = self.compute(pairs, step)
            weights = self.averaged_by(pairs)
            return mean_over_processes(
                value if weights is None else value * share(weights).to(value)
            )

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        """The scalar loss of float feature pairs.

        Args:
            pairs: The chosen levels.
            step: Ground truth, image sizes, progress, random numbers.
        """
        objects = step.objects if self._takes('boxes') else None
        calls = self._arguments(pairs, objects)
        return torch.stack([self._call(*features, **given) for features, given in calls]).sum()

    def averaged_by(self, pairs: list[FeaturePair]) -> Tensor | None:
        """(B,) weights by which :meth:`compute` averages over images; None where it does something else."""
        if self.gathers or (self.function is not None and self._takes('gather')):
            return None
        return pairs[0].student.new_ones(len(pairs[0].student))

    def _arguments(
        self,
        pairs: Sequence[FeaturePair],
        objects: tuple[Tensor, Tensor] | None,
        gather: bool = True,
    ) -> list[tuple[tuple[Any, Any], dict[str, Any]]]:
        """What the function is called with: once for all levels if it takes ``strides``, else once for each level.

        Args:
            pairs: The levels.
            objects: What :attr:`mmkd.structures.Step.objects` gives, if the function takes ``boxes``.
            gather: Of all processes, if the function can.
        """
        boxes, images = objects or (None, None)
        given: dict[str, Any] = dict(boxes=boxes, images=images, gather=gather)
        given = {name: value for name, value in given.items() if self._takes(name)}
        if self._takes('strides'):
            students, teachers = [pair.student for pair in pairs], [pair.teacher for pair in pairs]
            return [((students, teachers), given | dict(strides=[pair.stride for pair in pairs]))]
        strides = [dict(stride=pair.stride) if self._takes('stride') else {} for pair in pairs]
        return [
            ((pair.student, pair.teacher), given | stride)
            for pair, stride in zip(pairs, strides, strict=True)
        ]

    def _make_layers(self, channels: Mapping[int, tuple[int, int]]) -> None:
        """Build the layers that the loss trains, given the channels of student and teacher of every chosen level."""
        for level, (ours, theirs) in channels.items():
            if self._connector is None:
                if ours == theirs or self.any_width:
                    continue
                raise ValueError(
                    f"{type(self).__name__}: the student's {' and '.join(self.at)} has {ours} channels, the teacher's "
                    f"{theirs}: set connector=dict(type='mmkd.ConvConnector'), a layer between the two that is trained "
                    'with the student, or give both networks the same width'
                )
            options = dict(self._connector, in_channels=ours, out_channels=theirs)
            where = f'{type(self).__name__}.connector'
            connector = build(CONNECTORS, options, where)  # a wrong option is always noticed
            if ours != theirs or self.own_connector is not None:
                self.connectors[str(level)] = connector

    def _connected(self, level: int, pair: FeaturePair) -> FeaturePair:
        student, teacher = at_least_float32(pair.student), at_least_float32(pair.teacher)
        if str(level) in self.connectors:
            with full_precision(student):
                student = self.connectors[str(level)](student)
        return replace(pair, student=student, teacher=teacher)

    def _check_ranks(self, strides: Sequence[int | None]) -> None:
        for stride in strides:
            if self.pooled is not None and (stride is None) != self.pooled:
                have, wants, fix = (
                    ('feature maps', '(B, C) features', "a classifier's at='pre_logits'")
                    if self.pooled
                    else ('pooled (B, C) features', 'feature maps', "at='backbone.layer3', say")
                )
                raise ValueError(
                    f'{type(self).__name__} compares {wants}, and {" and ".join(self.at)} gives {have}: take {fix}'
                )

    def _find_levels(self, strides: Sequence[int | None]) -> list[int]:
        """The positions of the chosen levels, shallow to deep."""
        places = sorted(range(len(strides)), key=lambda place: strides[place] or 0)
        if self.strides is None:
            return places
        missing = [stride for stride in self.strides if stride not in strides]
        if missing or not self.strides:
            raise ValueError(
                f'{type(self).__name__}.strides: {missing or self.strides} cannot be distilled: both networks have '
                f'levels of stride {list(strides)}'
            )
        return [place for place in places if strides[place] in self.strides]


def _paths(at: Any, setting: str) -> list[str]:
    """One path or several, as a list."""
    paths = [at] if isinstance(at, str) else at
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
        raise TypeError(
            f"{setting}: {at!r} is no path of a module, such as 'backbone.layer3', and no list of paths"
        )
    return list(paths)


def _gather(pair: FeaturePair) -> FeaturePair:
    """The pair with the features of all processes."""
    width = pair.student.shape[1]
    rows, _ = gather_rows(torch.cat([pair.student, pair.teacher.to(pair.student)], dim=1))
    return replace(pair, student=rows[:, :width], teacher=rows[:, width:].detach())
