"""TTM and WTTM: the teacher's probabilities, raised to a power, for the student as it is.

Zheng, Yang: "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024.
"""

from __future__ import annotations

from torch import Tensor

from ._common import check_positive, prepare_pair, weighted_mean
from ._divergence import categorical_kl


def ttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    gamma: float = 0.1,
    weighted: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Pull the student's probabilities to the teacher's power transform.

    With :math:`p = \mathrm{softmax}(t)`, :math:`q = \mathrm{softmax}(s)` and
    :math:`U_i = \sum_c p_{ic}^\gamma`, the loss is the mean over samples i of

    .. math:: w_i \, KL\!\left( \frac{p_i^\gamma}{U_i} \,\Big\|\, q_i \right)

    with :math:`w_i = 1` (TTM) or, if ``weighted``, :math:`w_i = U_i` (WTTM): the power sum is large
    where the teacher is unsure, up to :math:`C^{1 - \gamma}`. The power is a temperature of
    :math:`1 / \gamma` on the teacher's side alone.

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        gamma: :math:`\gamma`, positive. Published with their code, on CIFAR-100: 0.1 with a weight
            of 45 for TTM, 0.2 with a weight of 4 for WTTM beside CRD.
        weighted: Whether a sample counts :math:`U_i` times.
        weights: Shape (S,), for a weighted mean, or None.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, weights that are not
            S numbers, and a gamma that is not positive.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_positive('gamma', gamma)
    divergences = categorical_kl(student, gamma * teacher)
    if weighted:
        divergences = (gamma * teacher.log_softmax(1)).exp().sum(1) * divergences
    return weighted_mean(divergences, weights)
