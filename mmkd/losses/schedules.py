"""Weights of losses: schedules, which depend on the progress only and so need no state to resume, and shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from mmkd.registry import SCHEDULES, build
from mmkd.structures import Progress


class Schedule(Protocol):
    """A weight as a function of progress.

    A schedule may also have ``is_over(progress)``, see :func:`is_over`.
    """

    def __call__(self, progress: Progress) -> float:
        """The weight."""
        ...


@SCHEDULES.register_module()
@dataclass(frozen=True)
class Constant:
    """A constant weight.

    Args:
        value: The weight.
    """

    value: float = 1.0

    def __call__(self, progress: Progress) -> float:
        """The weight."""
        return self.value

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight stays 0 from here on."""
        return self.value == 0


@dataclass(frozen=True)
class _Ramp:
    """The base class of schedules that change between two points of training.

    Args:
        value: The weight that is scaled.
        begin: Epoch or iteration at which the change begins.
        end: Epoch or iteration at which it ends; None is the end of training.
        by_epoch: Count epochs (fractions included) or iterations.
    """

    value: float = 1.0
    begin: float = 0
    end: float | None = None
    by_epoch: bool = True

    def __post_init__(self) -> None:
        _check_points(self, begin=self.begin, end=0 if self.end is None else self.end)
        if self.end is not None and self.end < self.begin:
            raise ValueError(
                f'{type(self).__name__}: end={self.end} is before begin={self.begin}: swap them, or '
                'leave `end` out for the end of training'
            )

    def fraction(self, progress: Progress) -> float:
        """0 until ``begin``, 1 from ``end`` on, linear in between."""
        end = progress.length(self.by_epoch) if self.end is None else self.end
        if end < self.begin:
            unit = 'epochs' if self.by_epoch else 'iterations'
            raise ValueError(
                f'{type(self).__name__}: begin={self.begin} is after the end of training, which has '
                f'{end:g} {unit}: lower `begin`, or check `by_epoch`'
            )
        milestone = self.begin if self.end is None else self.end
        progress.warn_beyond(milestone, self.by_epoch, type(self).__name__)
        position = progress.position(self.by_epoch)
        if not self.begin < position < end:  # also where begin and end are one point
            return float(position >= end)
        return (position - self.begin) / (end - self.begin)


@SCHEDULES.register_module()
class LinearWarmup(_Ramp):
    """0 until ``begin``, rising linearly to ``value`` at ``end``."""

    def __call__(self, progress: Progress) -> float:
        """The weight."""
        return self.value * self.fraction(progress)

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight stays 0 from here on."""
        return self.value == 0


@SCHEDULES.register_module()
class CosineWarmup(_Ramp):
    """0 until ``begin``, rising along half a cosine to ``value`` at ``end``."""

    def __call__(self, progress: Progress) -> float:
        """The weight."""
        return self.value * 0.5 * (1 - math.cos(math.pi * self.fraction(progress)))

    def is_over(self, progress: Progress) -> bool:
        """See :func:`is_over`."""
        return self.value == 0


@SCHEDULES.register_module()
class CosineDecay(_Ramp):
    """``value`` until ``begin``, falling along half a cosine to 0 at ``end``."""

    def __call__(self, progress: Progress) -> float:
        """The weight."""
        return self.value * 0.5 * (1 + math.cos(math.pi * self.fraction(progress)))

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight stays 0 from here on."""
        return self(progress) == 0  # it never rises again


@SCHEDULES.register_module()
@dataclass(frozen=True)
class Stop:
    """``value`` before ``at``, 0 from then on: the teacher no longer runs.

    Args:
        at: Epoch or iteration.
        value: The weight before.
        by_epoch: Count epochs or iterations.
    """

    at: float
    value: float = 1.0
    by_epoch: bool = True

    def __post_init__(self) -> None:
        _check_points(self, at=self.at)

    def __call__(self, progress: Progress) -> float:
        """The weight."""
        progress.warn_beyond(self.at, self.by_epoch, 'Stop')
        return self.value if progress.position(self.by_epoch) < self.at else 0.0

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight stays 0 from here on."""
        return self(progress) == 0


@SCHEDULES.register_module()
@dataclass(frozen=True)
class Steps:
    """``value``, multiplied by ``gamma`` at every milestone, as MultiStepLR does.

    Args:
        milestones: Ascending epochs or iterations.
        gamma: The factor.
        value: The weight at the start.
        by_epoch: Count epochs or iterations.
    """

    milestones: Sequence[float]
    gamma: float = 0.1
    value: float = 1.0
    by_epoch: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.milestones, list | tuple):
            raise ValueError(
                f'Steps.milestones: {self.milestones!r} is no list of epochs or iterations'
            )
        for milestone in self.milestones:
            _check_points(self, milestones=milestone)
        if not (isinstance(self.gamma, int | float) and 0 <= self.gamma < math.inf):
            raise ValueError(f'Steps.gamma: {self.gamma!r} is no factor: give a number, 0 or more')
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(
                f'Steps: milestones={list(self.milestones)} are not in ascending order'
            )

    def __call__(self, progress: Progress) -> float:
        """The weight."""
        progress.warn_beyond(max(self.milestones, default=0), self.by_epoch, 'Steps')
        passed = sum(progress.position(self.by_epoch) >= milestone for milestone in self.milestones)
        return self.value * self.gamma**passed

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight stays 0 from here on."""
        return self(progress) == 0  # multiplication cannot raise it from 0


@SCHEDULES.register_module()
class Chain:
    """The product of several schedules, such as a warm-up and a later stop.

    Args:
        schedules: Configs of schedules, or numbers.
    """

    def __init__(self, schedules: Sequence[float | Mapping[str, Any]]) -> None:
        if not isinstance(schedules, list | tuple):
            raise ValueError(f'Chain.schedules: {schedules!r} is no list of schedules')
        self.schedules = [build_schedule(schedule, 'Chain.schedules') for schedule in schedules]

    def __call__(self, progress: Progress) -> float:
        """The weight."""
        return math.prod(schedule(progress) for schedule in self.schedules)

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight stays 0 from here on."""
        return any(is_over(schedule, progress) for schedule in self.schedules)


@SCHEDULES.register_module()
@dataclass(frozen=True)
class GradientShare:
    """A share of the gradient instead of a weight: the weight that leads to this share is found during training.

    The share is the norm of the loss's weighted gradient on parameters that all losses depend on, divided by the sum of
    these norms over the student's own loss and all distillation losses. Gradients are measured in the first steps
    (iterations 0, 1, 2, 4, 8, ...) and then every ``interval`` iterations, with one backward pass per loss to these
    parameters. :class:`mmkd.losses.GradientShares` computes the weights.

    If several losses have a share, their options other than ``share`` have to be equal.

    Args:
        share: 0 or more and less than 1, or a schedule of such numbers, as ``dict(type='LinearWarmup', value=0.2,
            end=2)``.
        interval: Iterations from one measurement to the next.
        momentum: Weight of earlier measurements in the running mean; 0 uses the last one only.
        parameters: Prefix of the parameters' names in the student, such as ``'backbone.layer4'``. Default: the last
            ones that every loss depends on, because the backward pass to them is the shortest. That is the neck;
            without a neck, or if a loss reads features of the backbone, the last block of the backbone, or the one
            that is read.
    """

    share: float | Mapping[str, Any] | Schedule
    interval: int = 50
    momentum: float = 0.8
    parameters: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        largest = getattr(self.schedule, 'value', 0)
        if largest >= 1:
            raise ValueError(
                f'GradientShare.share: {largest!r} leaves nothing to the other losses: give a number below 1, such as '
                '0.2'
            )
        if not (isinstance(self.interval, int) and self.interval >= 1):
            raise ValueError(
                f'GradientShare.interval: {self.interval!r} is no number of iterations: give 1 or more'
            )
        if not (isinstance(self.momentum, int | float) and 0 <= self.momentum < 1):
            raise ValueError(
                f'GradientShare.momentum: {self.momentum!r} is not in [0, 1): give a number such as 0.8'
            )

    def __call__(self, progress: Progress) -> float:
        """The share."""
        return self.schedule(progress)

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule of the share."""
        return build_schedule(self.share, 'GradientShare.share')

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight stays 0 from here on."""
        return is_over(self.schedule, progress)


def is_over(schedule: Schedule, progress: Progress) -> bool:
    """Whether the weight stays 0 from here on.

    Asks the schedule's method ``is_over(progress)``; without one, the weight may rise again at any time.

    Args:
        schedule: The schedule.
        progress: The point of training.
    """
    method = getattr(schedule, 'is_over', None)
    return method is not None and method(progress)


def build_weight(weight: float | Mapping[str, Any] | Schedule, where: str) -> Schedule:
    """Build the weight of a loss: a schedule or a :class:`GradientShare`, see :func:`build_schedule`."""
    if isinstance(weight, int | float):
        schedule: Schedule = Constant(float(weight))
    elif isinstance(weight, Mapping):
        schedule = build(SCHEDULES, weight, where)
    elif callable(weight):
        schedule = weight
    else:
        raise TypeError(f'{where}: {weight!r} is neither a number nor dict(type=...) of a schedule')
    value = getattr(schedule, 'value', 0.0)
    if not (isinstance(value, int | float) and 0 <= value < math.inf):
        raise ValueError(f'{where}: {value!r} is no weight: give a finite number, 0 or more')
    return schedule


def build_schedule(weight: float | Mapping[str, Any] | Schedule, where: str) -> Schedule:
    """A schedule from a number, a config, or a schedule itself.

    Args:
        weight: The value in the recipe.
        where: The setting's name, for errors.

    Raises:
        ValueError, TypeError: The config is wrong; the message says how.
    """
    schedule = build_weight(weight, where)
    if isinstance(schedule, GradientShare):
        raise ValueError(
            f'{where}: a GradientShare is the whole weight of a distillation loss and no part of another schedule: for '
            "a share that changes set its own option, share=dict(type='LinearWarmup', value=0.2, end=2)"
        )
    return schedule


def _check_points(schedule: object, **points: float) -> None:
    """Raise ValueError unless each of a schedule's ``points`` is a valid epoch or iteration."""
    for name, point in points.items():
        if not (isinstance(point, int | float) and 0 <= point < math.inf):
            raise ValueError(
                f'{type(schedule).__name__}.{name}: {point!r} is no epoch or iteration: give a number, 0 or more'
            )
