"""The base class of distillation losses: weight, requests, and the options of their function."""

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

    A subclass says in :meth:`requests` what it asks of a step, and computes the loss in :meth:`forward`. If the loss is
    a function of :mod:`mmkd.functional`, set ``function``: those of its parameters that are not tensors become options
    of the class, with the function's defaults, checks and documentation.

    Args:
        weight: A number, or a schedule such as ``dict(type='LinearWarmup', end=20, by_epoch=True)``, or a share of the
            gradient, ``dict(type='mmkd.GradientShare', share=0.2)``.
        teacher: Name of the teacher, if a recipe has several.
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
    """Whether the loss compares samples of a batch with each other, and so needs those of all processes.

    Logits, labels and weights, or features, are gathered; images, objects and boxes remain those of this process.
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
        """Make ``inspect.signature`` show the options of the class, its bases and its function."""
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
        """The current weight; for a :class:`mmkd.losses.GradientShare`, the current share."""
        return self._schedule(progress)

    @property
    def schedule(self) -> Schedule:
        """The schedule of the weight."""
        return self._schedule

    def is_over(self, progress: Progress) -> bool:
        """Whether the weight stays 0 from here on."""
        return is_over(self._schedule, progress)

    @abstractmethod
    def requests(self) -> tuple[Request[Any], ...]:
        """The loss's requests, the same in every step."""

    def attach(self, sources: Sources) -> None:
        """Check that the loss suits the pair, and create its trainable layers, if any.

        The Distiller calls it once, before the optimizer is built.

        Args:
            sources: The sources that answer the requests.

        Raises:
            ValueError: The loss does not suit this pair; the message names one that does.
        """

    def begin_step(self, active: bool) -> None:
        """Called before the student's own step; ``active`` says whether the weight is other than 0."""

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The unweighted scalar loss of a step.

        With several processes, all return the same value, the loss of the whole batch. Each has the gradient of its own
        share; the mean of these over the processes is the gradient of the value.
        """

    def _takes(self, parameter: str) -> bool:
        """Whether the function has this parameter."""
        return parameter in inspect.signature(_function(type(self))).parameters

    def _call(self, *tensors: Any, **given: Any) -> Tensor:
        """Call the function with the options."""
        return _function(type(self))(*tensors, **(self.options | given))

    def _check_options(self, *tensors: Any, **given: Any) -> None:
        """Compute the loss of no samples, so that a wrong option is an error now and not in the first step."""
        try:
            self._call(*tensors, **given)
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}.{error}') from None


def full_precision(values: Tensor) -> torch.autocast:
    """Disable autocast for the loss. The teacher, which runs when its outputs are first read, is not affected."""
    return torch.autocast(values.device.type, enabled=False)


def idle(module: nn.Module) -> Tensor | None:
    """A zero that depends on all trainable parameters of a module that does not run in this step; DDP needs them.

    None if there are none.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.stack([parameter.sum() for parameter in trained]).sum() * 0.0 if trained else None


def share(weights: Tensor) -> Tensor:
    """The factor that turns this process's weighted mean into its share of the mean over all processes' samples.

    It is the sum of its weights, divided by the average of that sum over the processes. The average of the shares over
    the processes is then the weighted mean over all samples.
    """
    total = weights.sum()
    mean = mean_over_processes(total)
    return torch.where(mean > 0, total / mean, torch.ones_like(total))


def _function(kind: type[DistillLoss]) -> Callable[..., Tensor]:
    assert kind.function is not None
    return kind.function


def _function_options(kind: type[DistillLoss]) -> dict[str, inspect.Parameter]:
    """The parameters of a class's function, without its two tensors and those that a step provides."""
    if kind.function is None:
        return {}
    _, _, *others = inspect.signature(kind.function).parameters.values()
    return {
        each.name: each.replace(kind=each.KEYWORD_ONLY)
        for each in others
        if each.name not in kind.given
    }
