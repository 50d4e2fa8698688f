"""What every distillation loss has: a weight that may follow a schedule, requests, and the options of its function."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmkd.functional.processes import mean_over_processes
from mmkd.structures import TEACHER, Progress, Request, Sources, Step

from .schedules import Schedule, build_weight, is_over


class DistillLoss(nn.Module, ABC):
    """A distillation loss: one scalar of a step, weighted by the Distiller.

    A subclass says in :meth:`requests` what it asks of a step and in :meth:`forward` what it makes of the answers.
    Where the loss is a function of :mod:`mmkd.functional`, ``function`` names it: the parameters that the function has
    beside tensors are then options of the class, with the function's defaults, checks and documentation.

    Args:
        weight: A number, or a schedule such as ``dict(type='LinearWarmup', end=20, by_epoch=True)``, or a share of the
            gradient, ``dict(type='mmkd.GradientShare', share=0.2)``.
        teacher: Name of the teacher, in a recipe that has several.
        **options: Options of ``function``.

    Raises:
        TypeError: ``function`` has no such option.
    """

    function: ClassVar[Callable[..., Tensor] | None] = None
    given: ClassVar[tuple[str, ...]] = (
        'labels',
        'weights',
        'groups',
        'boxes',
        'images',
        'activation',
        'avg_factor',
    )
    """Parameters of a function that a step gives; the others are options of the recipe."""
    gathers: ClassVar[bool] = False
    """The loss relates the samples of a batch to each other: it is computed on those of all processes.

    Logits, labels and weights, or features, are gathered; images, objects and boxes of pairs stay this process's.
    """

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        teacher: str = TEACHER,
        **options: Any,
    ) -> None:
        super().__init__()
        self._schedule = build_weight(weight, where=f'{type(self).__name__}.weight')
        self.teacher = teacher
        known = _function_options(type(self))
        unknown = sorted(options.keys() - known.keys())
        if unknown:
            raise TypeError(
                f'{type(self).__name__} has no option {", ".join(unknown)}; its options are: '
                f'{", ".join(inspect.signature(type(self)).parameters)}'
            )
        self.options = {name: each.default for name, each in known.items()} | options

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have ``inspect.signature`` show the options of the class, its bases and its function."""
        super().__init_subclass__(**kwargs)
        parameters: dict[str, inspect.Parameter] = {}
        for kind in cls.__mro__:
            if not issubclass(kind, DistillLoss) or '__init__' not in vars(kind):
                continue
            _, *own = inspect.signature(kind.__init__).parameters.values()
            for each in own:
                if each.kind is not each.VAR_KEYWORD:
                    parameters.setdefault(each.name, each.replace(kind=each.KEYWORD_ONLY))
            if all(each.kind is not each.VAR_KEYWORD for each in own):
                break
        else:
            parameters = _function_options(cls) | parameters
        cls.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]

    def weight(self, progress: Progress) -> float:
        """The weight at this point of training; of a :class:`mmkd.losses.GradientShare` the share."""
        return self._schedule(progress)

    @property
    def schedule(self) -> Schedule:
        """What the weight follows."""
        return self._schedule

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight is 0 from this point of training on, for ever."""
        return is_over(self._schedule, progress)

    @abstractmethod
    def requests(self) -> tuple[Request[Any], ...]:
        """What the loss asks of every step; which sources answer is settled before the first one."""

    def attach(self, sources: Sources) -> None:
        """Check that the loss means something on this pair and make what it trains, if anything.

        The Distiller calls it once, before the optimizer is built.

        Args:
            sources: What answers the requests.

        Raises:
            ValueError: The loss means nothing on this pair; the message names the one to use instead.
        """

    def begin_step(self, active: bool) -> None:
        """Called before the student's own step; ``active`` is whether the weight is not 0 in it."""

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The unweighted scalar loss of a step.

        With several processes the same value on all of them: the loss of the whole batch. Each has the gradient of
        its own share, whose mean over the processes is the value's.
        """

    def _takes(self, parameter: str) -> bool:
        """Whether the function has a parameter."""
        return parameter in inspect.signature(_function(type(self))).parameters

    def _call(self, *tensors: Any, **given: Any) -> Tensor:
        """The function's value."""
        return _function(type(self))(*tensors, **(self.options | given))

    def _check_options(self, *tensors: Any, **given: Any) -> None:
        """Compute the loss of no samples, so that a wrong option is an error now and not in a later step."""
        try:
            self._call(*tensors, **given)
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}.{error}') from None


def full_precision(values: Tensor) -> torch.autocast:
    """Only the loss leaves autocast: the teacher, which runs when its outputs are first asked for, stays in it."""
    return torch.autocast(values.device.type, enabled=False)


def idle(module: nn.Module) -> Tensor | None:
    """A zero with all that a module trains in its graph, for the steps in which it does not run: DDP wants it there.

    None where it trains nothing.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.stack([parameter.sum() for parameter in trained]).sum() * 0.0 if trained else None


def share(weights: Tensor) -> Tensor:
    """What this process's mean, weighted by ``weights``, is multiplied by to be its share of the mean of all.

    It is the sum of its weights, divided by the mean of the processes' sums; the mean of the shares over the processes
    is then the weighted mean over the samples of all.
    """
    total = weights.sum()
    mean = mean_over_processes(total)
    return torch.where(mean > 0, total / mean, torch.ones_like(total))


def _function(kind: type[DistillLoss]) -> Callable[..., Tensor]:
    assert kind.function is not None
    return kind.function


def _function_options(kind: type[DistillLoss]) -> dict[str, inspect.Parameter]:
    """The parameters of a class's function that are neither its two tensors nor given by a step."""
    if kind.function is None:
        return {}
    _, _, *others = inspect.signature(kind.function).parameters.values()
    return {
        each.name: each.replace(kind=each.KEYWORD_ONLY)
        for each in others
        if each.name not in kind.given
    }
