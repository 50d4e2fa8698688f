"""Finds weights of losses from the shares of the gradient that they should have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from mmkd.functional.compat import autocast_dtype
from mmkd.functional.processes import mean_over_processes
from mmkd.structures import Features, Progress, module_path

from .base import DistillLoss
from .schedules import GradientShare

NAME = 'gradient_shares'
"""Name of a network's :class:`GradientShares` beside its losses; no loss can have it."""

_OPTIONS = ('interval', 'momentum', 'parameters')
_HIGHEST_SCALE = 2.0**16


class GradientShares(nn.Module):
    """Finds the weights of losses that are given a share of the gradient instead of a weight.

    Let n_j be the norm of the gradient of loss j on the shared parameters, averaged over the measurements; s_k the
    share that loss k should have; and f the sum of ``weight * n`` over the network's own loss and the losses with
    ordinary weights. Then the weight of loss k is ``s_k / (1 - sum of shares) * f / n_k``, which makes its share of the
    sum of all norms s_k. With several processes, n_j is the norm of the gradient averaged over them.

    Measurements are kept in buffers, so that checkpoints include them, and are the same on all processes. Those where
    the gradient of a loss is 0 or not finite are ignored. Until the first valid one, the loss has weight 0. No value is
    read on the host.

    Args:
        network: The network that is trained.
        losses: Its distillation losses by name, at least one with a share.

    Attributes:
        place: Names of the parameters on which gradients are measured, for the log.

    Raises:
        ValueError: Losses with a share have different options, the shares add up to 1 or more, or the parameters are
            not found or cannot be measured.
    """

    norms: Tensor
    counts: Tensor
    measured: Tensor
    scales: Tensor

    def __init__(self, network: nn.Module, losses: Mapping[str, DistillLoss]) -> None:
        super().__init__()
        self.shares = shares_of(losses)
        first, options = _common_options(self.shares)
        _check_sum(sum(getattr(each.schedule, 'value', 0) for each in self.shares.values()))
        self._interval, self._momentum = options['interval'], options['momentum']
        places = options['parameters']
        if places is None:
            places = _last_shared(network, losses.values(), f'{first}.weight.parameters')
        places = (places,) if isinstance(places, str) else tuple(places)
        self.place = ', '.join(places)
        self._parameter_names = list(
            parameters_under(network, places, f'{first}.weight.parameters')
        )
        _check_no_recomputation(network, places, first)
        keep_graphs()
        self._names = ['', *losses]  # the network's own loss is the first
        for name, value in dict(norms=0.0, counts=0.0, measured=0.0, scales=_HIGHEST_SCALE).items():
            self.register_buffer(name, torch.full((len(self._names),), value))
        self._known: set[str] = set()

    def weights(
        self,
        network: Any,
        task: Mapping[str, Any],
        task_weight: float,
        values: Mapping[str, Tensor],
        weights: Mapping[str, float],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """The weights of the losses with a share, in this step.

        Args:
            network: The network.
            task: Its own losses, unweighted, attached to the graph, which is not freed.
            task_weight: Their weight.
            values: Unweighted scalars of the distillation losses with a weight other than 0.
            weights: Their current weights; for losses with a share, the share.
            progress: How far training has come.

        Returns:
            Name to scalar weight, for those of ``values`` with a share.

        Raises:
            ValueError: A gradient does not reach the shared parameters.
        """
        shares = {name: weights[name] for name in values if name in self.shares}
        if not shares:
            return {}
        _check_sum(sum(shares.values()))
        if self._is_due(values, progress):
            self._measure(network, task, values)
        means = dict(
            zip(self._names, (self.norms / self.counts.clamp(min=1e-30)).unbind(), strict=True)
        )
        others = task_weight * means['']
        for name in values:
            if name not in shares:
                others = others + weights[name] * means[name]
        others = others / (1 - sum(shares.values()))
        return {
            name: torch.where(means[name] > 0, share * others / means[name], 0.0)
            for name, share in shares.items()
        }

    def _is_due(self, values: Mapping[str, Tensor], progress: Progress) -> bool:
        """Whether to measure now: at certain iterations, and when a loss was never measured before."""
        iteration = progress.iteration
        power_of_two = iteration & (iteration - 1) == 0
        return (
            iteration % self._interval == 0
            or (power_of_two and iteration < self._interval)
            or not self._known.issuperset(values)
        )

    def _measure(self, network: Any, task: Mapping[str, Any], values: Mapping[str, Tensor]) -> None:
        own, _ = network.parse_losses(dict(task))
        parameters = self._parameters_of(network)
        losses = {'': own, **values}
        # A float16 gradient needs a scale that keeps it from underflowing.
        scaled = autocast_dtype(own.device.type) == torch.float16
        found = torch.zeros_like(self.norms)
        for index, name in enumerate(self._names):
            if name not in losses:
                continue
            scale = self.scales[index] if scaled else 1.0
            gradient, reached = gradient_of(losses[name], parameters, scale)
            if not reached:
                raise ValueError(
                    f'model.losses.{next(iter(self.shares))}.weight.parameters: the gradient of '
                    f'{f"loss_{name}" if name else "the own loss of the student"} does not reach {self.place}: name '
                    'parameters that every loss depends on; where they are sharded (FSDP) give numbers as weights'
                )
            found[index] = torch.linalg.vector_norm(gradient)
            self.measured[index].fill_(1)
        with torch.no_grad():
            finite = torch.isfinite(found)
            counts = finite & (found > 0)
            old = self._momentum
            self.norms.copy_(torch.where(counts, old * self.norms + (1 - old) * found, self.norms))
            self.counts.copy_(torch.where(counts, old * self.counts + (1 - old), self.counts))
            self.scales.copy_(torch.where(finite, self.scales, self.scales / 4))
        self._known |= values.keys()

    def _parameters_of(self, network: nn.Module) -> list[nn.Parameter]:
        try:
            return [network.get_parameter(name) for name in self._parameter_names]
        except AttributeError:
            raise ValueError(
                f'model.losses.{next(iter(self.shares))}.weight: the parameters of {self.place} are no longer where '
                'they were when the model was built, as FSDP puts others in their place: give numbers as weights'
            ) from None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        known = zip(self._names, self.measured.tolist(), strict=True)
        self._known = {name for name, measured in known if measured}


def shares_of(losses: Mapping[str, DistillLoss]) -> dict[str, GradientShare]:
    """Name to share of those losses that have one; without shares of 0."""
    schedules = {name: loss.schedule for name, loss in losses.items()}
    return {
        name: each
        for name, each in schedules.items()
        if isinstance(each, GradientShare) and each.share != 0
    }


def gradient_of(
    loss: Tensor, parameters: Sequence[nn.Parameter], scale: float | Tensor = 1.0
) -> tuple[Tensor, bool]:
    """The gradient of a loss, averaged over all processes. Neither the graph nor ``.grad`` of parameters is changed.

    Args:
        loss: A scalar.
        parameters: Parameters with P numbers in total.
        scale: Factor on the loss during the backward pass, against underflow.

    Returns:
        The (P,) gradient, and whether this process's loss depends on any of the parameters (also True for a constant
        loss, which has no graph).
    """
    parts: Sequence[Tensor | None] = [None] * len(parameters)
    if loss.requires_grad:
        with torch.autocast(loss.device.type, enabled=False):
            parts = torch.autograd.grad(
                loss * scale, parameters, retain_graph=True, allow_unused=True
            )
    whole = [
        torch.zeros_like(parameter) if part is None else part
        for part, parameter in zip(parts, parameters, strict=True)
    ]
    gradient = torch.cat([part.flatten().float() for part in whole]) / scale
    reached = not loss.requires_grad or any(part is not None for part in parts)
    return mean_over_processes(gradient), reached


def keep_graphs() -> None:
    """Let a graph that parts compiled from now on leave behind be gone back through twice.

    PyTorch else gives away the memory of what a compiled part kept for its backward pass in the first one.
    """
    if hasattr(functorch_config, 'donated_buffer'):
        functorch_config.donated_buffer = False


def recomputing(network: nn.Module, places: Sequence[str]) -> str | None:
    """A part on the way back to parameters that recomputes its activations: it stands no second backward pass.

    Args:
        network: The network.
        places: The parameters by the beginning of their names.

    Returns:
        The first such part's name, None if there is none.
    """
    whole = any(_top(place) == 'backbone' for place in places)
    parts = network.named_modules()
    return next(
        (
            name
            for name, part in parts
            if any((getattr(part, option, 0) or 0) > 0 for option in ('with_cp', 'num_cp'))
            and (whole or _top(name) != 'backbone')
        ),
        None,
    )


def parameters_under(
    network: nn.Module, prefixes: Sequence[str], where: str
) -> dict[str, nn.Parameter]:
    """The trainable parameters of a network whose names begin with one of the prefixes, in whole parts.

    Args:
        network: The network.
        prefixes: Such as ``'backbone'`` or ``'backbone.layer4'``.
        where: The option that names them, for the error.

    Raises:
        ValueError: There are none.
    """
    found = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
        and not name.startswith('distill.')
        and any(f'{name}.'.startswith(f'{prefix}.') for prefix in prefixes)
    }
    if not found:
        parts = ', '.join(name for name, _ in network.named_children())
        raise ValueError(
            f'{where}: no trainable parameter of the student begins with {" or ".join(prefixes)}; its parts are {parts}'
        )
    return found


def _common_options(shares: Mapping[str, GradientShare]) -> tuple[str, dict[str, Any]]:
    """The first loss with a share, for errors, and the options that all shares have."""
    first, *others = shares
    options = {name: getattr(shares[first], name) for name in _OPTIONS}
    for other in others:
        for name, value in options.items():
            if getattr(shares[other], name) != value:
                raise ValueError(
                    f'model.losses.{other}.weight.{name}: {getattr(shares[other], name)!r}, where {first} has '
                    f'{value!r}: the gradients of all losses are measured together: give both the same'
                )
    return f'model.losses.{first}', options


def _check_sum(shares: float) -> None:
    if shares >= 1:
        raise ValueError(
            f"model.losses: the GradientShares add up to {shares:g}, which leaves nothing to the student's own loss: "
            'lower them to less than 1 together'
        )


def _last_shared(network: nn.Module, losses: Iterable[DistillLoss], where: str) -> str:
    """The last module that all losses depend on, to which the backward pass is shortest."""
    paths = {
        module_path(request.at)
        for loss in losses
        for request in loss.requests()
        if isinstance(request, Features)
    }
    read = [
        name for name, _ in network.named_modules() if name in paths and _top(name) == 'backbone'
    ]
    if not read and _trains(getattr(network, 'neck', None)):
        return 'neck'
    path = read[0] if read else 'backbone'
    module = network.get_submodule(path) if hasattr(network, 'backbone') else None
    if module is None or not _trains(module):
        raise ValueError(
            f'{where}: {path} of the student trains no parameters on which the gradients of all losses could be '
            'compared: name some that every loss depends on'
        )
    # Descend into the last child of the backbone, of its list of stages, and of a stage's sequence of blocks.
    chained = True
    while chained:
        children = [(name, child) for name, child in module.named_children() if _trains(child)]
        if not children:
            break
        path, module = f'{path}.{children[-1][0]}', children[-1][1]
        chained = isinstance(module, nn.Sequential | nn.ModuleList)
    return path


def _trains(module: nn.Module | None) -> bool:
    """Whether a module has a trainable matrix or filter; norm layers alone are not enough."""
    return module is not None and any(
        parameter.requires_grad and parameter.dim() > 1 for parameter in module.parameters()
    )


def _check_no_recomputation(network: nn.Module, places: Sequence[str], first: str) -> None:
    name = recomputing(network, places)
    if name is not None:
        raise ValueError(
            f'{first}.weight.parameters: {name} of the student recomputes its activations in the backward pass '
            f'(with_cp, num_cp), and the gradient on {", ".join(places)} cannot be measured through it: set '
            'with_cp=False or num_cp=0, name parameters behind it, or give a number as the weight'
        )


def _top(path: str) -> str:
    return path.partition('.')[0]
