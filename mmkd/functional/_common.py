"""Helpers of the losses in this package: checks of inputs, precision, averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, SupportsFloat

import torch
from torch import Tensor

from .compat import is_compiling
from .rows import at_least_float32

Activation = Literal['softmax', 'sigmoid']


def prepare_pair(
    student: Tensor,
    teacher: Tensor,
    layout: tuple[str | int, ...],
    name: str = 'logits',
    free: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Check a student/teacher pair, detach the teacher, bring both to float32 or wider.

    Within ``torch.autocast``, the element-wise operations, softmaxes and sums of the losses keep the
    precision of their input, so this is enough to compute in float32.

    Args:
        student: What the student predicts.
        teacher: What the teacher predicts, of the same shape (but see ``free``).
        layout: The dimensions expected, a name for a free one and a number for a fixed one, such
            as ``('N', 4)``.
        name: What the tensors hold, for the errors.
        free: Dimensions that may differ, where things are compared within each network.

    Raises:
        ValueError: If the two shapes differ or do not follow ``layout``, or the tensors do not
            hold floating-point numbers.
    """
    alike = student.dim() == teacher.dim() and all(
        ours == theirs or dimension in free
        for dimension, (ours, theirs) in enumerate(zip(student.shape, teacher.shape, strict=True))
    )
    if not alike:
        raise ValueError(
            f'{name}: the student has shape {tuple(student.shape)} and the teacher '
            f'{tuple(teacher.shape)}: row i of both must be the same thing'
        )
    fits = student.dim() == len(layout) and all(
        isinstance(expected, str) or size == expected
        for size, expected in zip(student.shape, layout, strict=True)
    )
    if not fits:
        raise ValueError(
            f'{name}: shape {tuple(student.shape)} is not ({", ".join(map(str, layout))})'
        )
    for dtype in (student.dtype, teacher.dtype):
        if not dtype.is_floating_point:
            raise ValueError(f'{name}: {dtype} is not a floating-point type')
    return at_least_float32(student), at_least_float32(teacher.detach())


def prepare_features(
    student: Tensor, teacher: Tensor, free: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """:func:`prepare_pair` of pooled features (B, C) or maps (B, C, H, W)."""
    layout = ('B', 'C') if student.dim() == 2 else ('B', 'C', 'H', 'W')
    return prepare_pair(student, teacher, layout, name='features', free=free)


def check_labels(labels: Tensor, num_samples: int, num_classes: int) -> None:
    """Check that there is one class index per sample.

    Values are checked in CPU memory only: on a device the host would have to wait, and the indexing
    that follows raises an error there.

    Raises:
        ValueError: Labels are not S integers, or not within [0, C).
    """
    if labels.shape != (num_samples,):
        raise ValueError(
            f'labels: shape {tuple(labels.shape)} is not ({num_samples},), one class per sample'
        )
    if labels.dtype not in (torch.int32, torch.int64):
        raise ValueError(f'labels: {labels.dtype} is not int64 or int32')
    if labels.device.type != 'cpu' or is_compiling() or num_samples == 0:
        return
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f'labels: values from {low} to {high} for {num_classes} logits: drop ignored '
            'samples, and background if it has no logit of its own'
        )


def check_num_classes(num_classes: int) -> None:
    """Raise ValueError unless there are at least two classes, a target and another one."""
    if num_classes < 2:
        raise ValueError(
            f'logits: {num_classes} per sample do not split into target and non-target classes: '
            'a head with a single logit is a sigmoid head'
        )


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a positive, finite number."""
    if not (isinstance(value, SupportsFloat) and 0 < value < math.inf):
        raise ValueError(f'{name}: {value!r} is not a positive number')


def check_not_negative(**values: float) -> None:
    """Raise ValueError unless each of the named ``values`` is a finite number, 0 or more."""
    for name, value in values.items():
        if not (isinstance(value, SupportsFloat) and 0 <= value < math.inf):
            raise ValueError(f'{name}: {value!r} is not zero or a positive number')


def check_option(name: str, value: str, options: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``options``."""
    if value not in options:
        raise ValueError(f'{name}: {value!r} is unknown: use one of {", ".join(options)}')


def prepare_weights(weights: Tensor | None, num_samples: int) -> Tensor | None:
    """Return the weights of the samples as constants of float32 or wider.

    Raises:
        ValueError: For weights that are neither None nor of shape (S,).
    """
    if weights is None:
        return None
    if weights.shape != (num_samples,):
        raise ValueError(
            f'weights: shape {tuple(weights.shape)} is not ({num_samples},), one per sample'
        )
    return at_least_float32(weights.detach())


def weighted_mean(
    values: Tensor, weights: Tensor | None = None, avg_factor: float | Tensor | None = None
) -> Tensor:
    """Average one value per sample into a scalar that is always attached to the graph.

    Args:
        values: Shape (S,).
        weights: Shape (S,), not negative; None for 1.
        avg_factor: Divisor of the weighted sum, at least 1, as in mmdet for a batch without
            positives. None divides by the sum of the weights: a sample of weight 2 then counts as
            two samples.

    Returns:
        ``sum(w v) / avg_factor`` or ``sum(w v) / sum(w)``; zero if there are no samples or all
        weights are zero.
    """
    weights = prepare_weights(weights, len(values))
    total = values.sum() if weights is None else (weights * values).sum()
    return mean_of_sum(total, len(values), weights, avg_factor)


def mean_of_sum(
    total: Tensor,
    num_samples: int,
    weights: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Divide the weighted sum over ``num_samples`` samples as :func:`weighted_mean` does."""
    if isinstance(avg_factor, Tensor):
        return total / avg_factor.detach().clamp(min=1)
    if avg_factor is not None:
        return total / max(avg_factor, 1)
    if weights is None:
        return total / max(num_samples, 1)
    return total / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def with_gradients(value: Tensor, *gradients: tuple[Tensor, Tensor | None]) -> Tensor:
    """A scalar with given gradients, which the backward pass only scales.

    It cannot be differentiated twice, as the gradients are constants to PyTorch: a backward pass
    with ``create_graph=True`` is an error.

    Args:
        value: The scalar, not attached to a graph.
        gradients: The tensors that it depends on, each with its gradient, or None if it has none.
    """
    known = [pair for pair in gradients if pair[1] is not None]
    if not known:
        return value
    # Views, because torch.compile treats a tensor that is passed twice as one input.
    inputs = [tensor.view_as(tensor) for tensor, _ in known]
    found = [gradient for _, gradient in known]
    attached: Tensor = _WithGradients.apply(value, len(inputs), *inputs, *found)
    return attached


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, num_inputs: int, *inputs_and_gradients: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs_and_gradients[num_inputs:])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                'this loss can be differentiated once only, since its gradient is computed with its '
                'value: call backward() or torch.autograd.grad() without create_graph=True'
            )
        found = ctx.saved_tensors
        return (None, None, *(gradient * known for known in found), *(None for _ in found))
