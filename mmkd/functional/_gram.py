"""Inner products of many vectors, and how much the similarities within two networks differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .rows import unit_rows


def products(rows: Tensor, columns: Tensor) -> Tensor:
    """The inner products of vectors, in their own precision also within autocast.

    Args:
        rows: Shape (..., M, D).
        columns: Shape (..., N, D).

    Returns:
        (..., M, N). It can be differentiated once.
    """
    batch = rows.shape[:-2]
    found: Tensor = _Products.apply(_batched(rows), _batched(columns))
    return found.unflatten(0, batch) if batch else found.squeeze(0)


def compare_similarities(student: Tensor, teacher: Tensor) -> Tensor:
    """How much the vectors' similarities to each other differ between two networks.

    Each network's matrix of inner products has its rows divided by their L2 norm; the widths D need not be equal.

    Args:
        student: Shape (..., N, D).
        teacher: Shape (..., N, D').

    Returns:
        (..., N) squared distances of the rows.
    """
    ours, theirs = (unit_rows(products(vectors, vectors)) for vectors in (student, teacher))
    return (ours - theirs).square().sum(-1)


def compare_grams(student: Tensor, teacher: Tensor) -> Tensor:
    """The sum of the squares of the differences of two networks' matrices of inner products, a scalar.

    Args:
        student: Shape (N, D).
        teacher: Shape (N, D').
    """
    return (products(student, student) - products(teacher, teacher)).square().sum()


def _batched(vectors: Tensor) -> Tensor:
    return vectors.flatten(0, -3) if vectors.dim() > 2 else vectors.unsqueeze(0)


class _Products(torch.autograd.Function):
    """In place, because autocast leaves that in the precision of its operands, on the way back as well."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(rows, columns)
        return _matrix_product(rows, columns.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, columns = ctx.saved_tensors
        of_rows, of_columns = ctx.needs_input_grad
        return (
            _matrix_product(gradient, columns) if of_rows else None,
            _matrix_product(gradient.mT, rows) if of_columns else None,
        )


def _matrix_product(left: Tensor, right: Tensor) -> Tensor:
    product = left.new_empty(len(left), left.shape[1], right.shape[2])
    return product.baddbmm_(left, right, beta=0)
