"""Losses over the samples of all processes: the collectives they need, with their gradients.

Data-parallel training averages the gradients of its processes. A loss whose value is split so that
the *mean* over the processes is the loss of the whole batch therefore trains as one process with
the whole batch does. Without a process group everything here leaves its input as it is.

Every process has to call the same functions in the same order, also one without samples, in the
forward as in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of all processes, differentiable: a row collects the gradients of all of them.

    Args:
        rows: Shape (S, C), or maps (S, C, H, W). S may differ from process to process and be 0, and
            H and W may differ; C, the type and whether it requires a gradient must not, since the
            backward pass is a collective too.

    Returns:
        (K, C), the rows of all processes in the order of their ranks, or (K, C, H, W) of the
        largest sizes, smaller maps having zeros at the right and the bottom; and integers of shape
        (S,): where this process's rows stand among them.
    """
    counts: Sequence[int] = [len(rows)]
    sizes = rows.shape[1:]
    if world_size() > 1:
        shapes = torch.stack(_all_gather(torch.tensor(rows.shape, device=rows.device))).tolist()
        counts, *others = map(list, zip(*shapes, strict=True))
        sizes = torch.Size(map(max, others))
    start = sum(counts[: dist.get_rank()]) if world_size() > 1 else 0
    own_index = torch.arange(start, start + len(rows), device=rows.device)
    # All processes know by now whether there is anything to gather.
    if world_size() == 1 or sum(counts) == 0:
        return rows, own_index
    return _GatherRows.apply(rows, counts, sizes, start), own_index


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of the processes' values, with the gradient of this process's own.

    Averaging the gradients over the processes makes them those of the mean. Any shape.
    """
    return value if world_size() == 1 else _MeanOverProcesses.apply(value)


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of the processes' values; a value collects the gradients of all processes. Any shape."""
    return value if world_size() == 1 else _SumOverProcesses.apply(value)


def _all_gather(tensor: Tensor) -> list[Tensor]:
    gathered = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(gathered, tensor.contiguous())
    return gathered


class _GatherRows(torch.autograd.Function):
    """Gather rows, padded to the largest number and size of them: a collective moves equal shapes."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, counts: Sequence[int], sizes: torch.Size, start: int
    ) -> Tensor:
        inner = tuple(slice(size) for size in rows.shape[1:])
        ctx.own = (slice(start, start + len(rows)), *inner)
        padded = rows.new_zeros(max(counts), *sizes)
        padded[(slice(len(rows)), *inner)] = rows
        gathered = _all_gather(padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[ctx.own], None, None, None


class _MeanOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        mean = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(mean)
        return mean / world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient
