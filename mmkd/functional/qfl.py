"""QFL-KD: the quality focal loss with the teacher's scores as targets, for sigmoid heads.

The loss of Li et al., "Generalized Focal Loss", NeurIPS 2020, as CrossKD (CVPR 2024) and BCKD (ICCV
2023) use it for their scores.
"""

from __future__ import annotations

import math
from typing import SupportsFloat

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import mean_of_sum, prepare_pair, prepare_weights, with_gradients
from .compat import is_compiling

_ENTRIES_AT_ONCE = 2**15


def qfl_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    weights: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Pull every sigmoid score to the teacher's, harder the further away it is.

    .. math:: \frac{1}{N} \sum_i w_i \sum_c
        |\sigma(s_{ic}) - \sigma(t_{ic})|^\beta \, BCE(s_{ic}, \sigma(t_{ic}))

    The modulating factor carries a gradient too, as in mmdet's own quality focal loss. The gradient is made together
    with the value: the loss can be differentiated once, not twice.

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
    weights = prepare_weights(weights, len(student))
    is_learning = torch.is_grad_enabled() and student.requires_grad
    gradient = torch.empty_like(student) if is_learning else None
    total = with_gradients(
        _sum_in_blocks(student, teacher, float(beta), weights, gradient), (student, gradient)
    )
    return mean_of_sum(total, len(student), weights, avg_factor)


@torch.no_grad()
def _sum_in_blocks(
    student: Tensor, teacher: Tensor, beta: float, weights: Tensor | None, gradient: Tensor | None
) -> Tensor:
    """The weighted sum over the samples; writes the gradient with respect to the student's logits.

    All anchors make many megabytes, and a formula of a dozen operations would go through memory as many times: a block
    of rows stays in the processor's cache.
    """
    total = student.new_zeros(())
    in_blocks = student.device.type == 'cpu' and not is_compiling()
    rows = max(_ENTRIES_AT_ONCE // max(student.shape[1], 1), 1) if in_blocks else len(student)
    for start in range(0, len(student), max(rows, 1)):
        part = slice(start, start + rows)
        logits, targets = student[part], teacher[part].sigmoid()
        scores = logits.sigmoid()
        cross_entropies = F.binary_cross_entropy_with_logits(logits, targets, reduction='none')
        difference = scores - targets  # the gradient of the cross entropies, too
        modulation = difference.abs().pow_(beta)
        values = (modulation * cross_entropies).sum(1)
        total = total + (values if weights is None else weights[part] * values).sum()
        if gradient is None:
            continue
        block = torch.mul(modulation, difference, out=gradient[part])
        if beta > 0:
            outer = difference.abs().pow_(beta - 1).mul_(difference.sign())
            slopes = torch.addcmul(scores, scores, scores, value=-1)
            block.addcmul_(outer.mul_(cross_entropies), slopes, value=beta)
        if weights is not None:
            block.mul_(weights[part, None])
    return total
