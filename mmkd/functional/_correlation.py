"""Pearson's correlation as a distance, used by DIST and PKD."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def correlation_distance(
    student: Tensor,
    teacher: Tensor,
    dim: int,
    weights: Tensor | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """One minus Pearson's correlation of student and teacher along ``dim``.

    It is computed as ``||u - v||^2 / 2`` with u and v the centred vectors of length 1, which
    unlike ``1 - u.v`` is exactly zero, with a zero gradient, for equal inputs. A constant vector
    has no correlation; u is taken as zero there, so that two constants are at distance 0, a
    constant and anything else at 1/2, and the constant gets a zero gradient.

    Args:
        student: Any shape.
        teacher: The same shape.
        dim: The dimension to correlate along; the result does not have it.
        weights: Weight of each entry, broadcastable to ``student``, or None for equal weights.
        total: If each process holds only a part of every vector: adds up the sums of all parts. The result is then
            this part's share of the distance. Cannot be combined with ``weights``.
    """
    difference = _unit_deviations(student, dim, weights, total) - _unit_deviations(
        teacher, dim, weights, total
    )
    return 0.5 * difference.square().sum(dim)


def _unit_deviations(
    values: Tensor, dim: int, weights: Tensor | None, total: Callable[[Tensor], Tensor] | None
) -> Tensor:
    if total is not None:
        count = total(values.new_full((), values.shape[dim])).clamp(min=1)
        deviations = values - total(values.sum(dim, keepdim=True)) / count
    elif weights is None:
        deviations = values - values.mean(dim, keepdim=True)
    else:
        total_weight = weights.sum(dim, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        mean = (weights * values).sum(dim, keepdim=True) / total_weight
        # The root, because a product of two deviations should contain the weight once.
        deviations = weights.sqrt() * (values - mean)
        values = weights.sqrt() * values
    norms = _norm(deviations, dim, total)
    # Deviations that are this small compared with the values are rounding errors of a constant, and
    # their direction is meaningless. Below the absolute bound their squares underflow.
    finfo = torch.finfo(values.dtype)
    sizes = _norm(values.detach(), dim, total)
    is_constant = norms <= (finfo.eps**0.5 * sizes).clamp(min=finfo.tiny**0.5)
    # A single product over the whole map: division or an element-wise choice would take four more passes.
    return deviations * torch.where(is_constant, 0.0, 1 / norms.masked_fill(is_constant, 1.0))


def _norm(values: Tensor, dim: int, total: Callable[[Tensor], Tensor] | None) -> Tensor:
    norm = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    if total is None:
        return norm
    return total(norm.square()).clamp(min=torch.finfo(norm.dtype).tiny).sqrt()
