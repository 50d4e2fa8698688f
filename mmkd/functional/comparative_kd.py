"""Comparative KD: the differences between samples instead of the samples themselves.

"Comparative Knowledge Distillation", arXiv 2311.02253, WACV 2025. It shares its initials with
:func:`mmkd.functional.ckd_loss`, and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import prepare_pair, prepare_weights, weighted_mean


def comparative_kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, weights: Tensor | None = None
) -> Tensor:
    r"""Pull the difference of every two samples' logits to the teacher's difference of the two.

    .. math:: \mathrm{mean}_{ij} \| (s_i - s_j) - (t_i - t_j) \|^2
        = 2 \, \mathrm{mean}_i \| d_i - \bar d \|^2, \quad d = s - t

    over all :math:`S^2` pairs, at the cost of S. Adding the same vector to all rows of a network
    changes nothing. The paper draws groups at random and compares one sample with another, or with
    the mean of two; in addition it compares with the labels, and it fine-tunes at the end. This
    function is the expectation of the comparison of single samples; the rest is not included.

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        weights: Shape (S,), or None: a pair counts with the product of its samples' weights.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, and weights that are
            not S numbers.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    weights = prepare_weights(weights, len(student))
    differences = student - teacher
    if weights is None:
        mean = differences.mean(0)
    else:
        total_weight = weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
        mean = (weights[:, None] * differences).sum(0) / total_weight
    return 2 * weighted_mean((differences - mean).square().sum(1), weights)
