"""QFL-KD: the quality focal loss with the teacher's scores as targets, for sigmoid heads.

The loss of Li et al., "Generalized Focal Loss", NeurIPS 2020, as CrossKD (CVPR 2024) and BCKD (ICCV
2023) use it for their scores.
"""

from __future__ import annotations

import math
from typing import SupportsFloat

import torch.nn.functional as F
from torch import Tensor

from ._common import prepare_pair, weighted_mean


def qfl_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    weights: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Pull every sigmoid score to the teacher's, the harder the further it is off.

    .. math:: \frac{1}{N} \sum_i w_i \sum_c
        |\sigma(s_{ic}) - \sigma(t_{ic})|^\beta \, BCE(s_{ic}, \sigma(t_{ic}))

    The modulating factor carries a gradient too, as in mmdet's own quality focal loss.

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        beta: Exponent of the modulating factor: 0, which leaves the binary cross entropy, or at
            least 1. Published: 1.
        weights: w, shape (S,), or None for 1.
        avg_factor: N, with 1 as the least. Published: the number of positives, with all anchors
            as samples. None is the sum of the weights, which makes this a weighted mean.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, weights that are not
            S numbers, and a beta that is neither 0 nor at least 1: between them the gradient is
            infinite where the student has reached the teacher.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    if not (isinstance(beta, SupportsFloat) and (beta == 0 or 1 <= beta < math.inf)):
        raise ValueError(f'beta: {beta!r} is neither 0 nor at least 1')
    targets = teacher.sigmoid()
    cross_entropies = F.binary_cross_entropy_with_logits(student, targets, reduction='none')
    modulation = (student.sigmoid() - targets).abs().pow(beta)
    return weighted_mean((modulation * cross_entropies).sum(1), weights, avg_factor)
