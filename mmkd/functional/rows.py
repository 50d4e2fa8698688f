"""Preprocessing of rows of logits before a distillation loss compares them.

Every function works along the last dimension, takes ``(..., C)`` and returns the same shape.
float16 and bfloat16 come back as float32, float32 and float64 as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def at_least_float32(logits: Tensor) -> Tensor:
    """Return float16 and bfloat16 logits as float32, everything wider unchanged."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def center_rows(logits: Tensor) -> Tensor:
    """Subtract from every row its mean: ``z - mean(z)``.

    Centring removes what all classes of a row have in common. It matters for CKD on sigmoid heads:
    all logits of background rows are near the same negative number, so these rows are nearly
    parallel before centring.

    Args:
        logits: Shape (..., C).

    Returns:
        Shape (..., C), rows that sum to zero. A constant row gives exact zeros.
    """
    rows = at_least_float32(logits)
    # Subtracting any element first changes nothing but the rounding: without it a constant row
    # leaves noise of one ulp, which the normalisation of CKD would blow up to a unit vector.
    shifted = rows - rows[..., :1].detach()
    return shifted - shifted.mean(dim=-1, keepdim=True)


def standardize_rows(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """Standardise every row: ``(z - mean(z)) / (std(z) + eps)`` with the unbiased std.

    The pre-processing of "Logit Standardization in Knowledge Distillation" (LSKD, Sun et al.,
    CVPR 2024), applied to student and teacher alike before any logit loss.

    Args:
        logits: Shape (..., C) with C >= 2.
        eps: Added to the standard deviation.

    Returns:
        Shape (..., C). A constant row has no spread that could be scaled: it gives zeros and
        gets a zero gradient (the formula's own would be of the order 1 / eps).

    Raises:
        ValueError: If rows have fewer than two logits; their standard deviation is not defined.
    """
    num_classes = logits.shape[-1]
    if num_classes < 2:
        raise ValueError(
            f'standardize_rows: rows of {num_classes} logits have no standard deviation: '
            'use center_rows, or a head with two classes or more'
        )
    centered = center_rows(logits)
    # The norm's derivative at 0 is taken as 0, where that of torch.std is NaN.
    norms = torch.linalg.vector_norm(centered, dim=-1, keepdim=True)
    std = norms / math.sqrt(num_classes - 1)
    return torch.where(std == 0, 0.0, centered / (std + eps))


def unit_rows(logits: Tensor, eps: float = 1e-12) -> Tensor:
    """Divide every row by its L2 norm: ``z / ||z||``.

    Args:
        logits: Shape (..., C).
        eps: Rows of a norm up to this count as zero rows.

    Returns:
        Shape (..., C), rows of norm 1. A zero row has no direction: it stays zero and gets a zero
        gradient (that of ``torch.nn.functional.normalize`` would be of the order 1 / eps, beyond
        what float16 holds). NaN and infinity come out as NaN.
    """
    rows = at_least_float32(logits)
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return torch.where(norms <= eps, 0.0, rows / norms.clamp_min(eps))
