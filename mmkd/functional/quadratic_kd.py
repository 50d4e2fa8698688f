"""Quadratic KD: the second-order form of the Kullback-Leibler divergence.

Hsu, Smith, Shen, Kira, Jin: "A Closer Look at Knowledge Distillation with Features, Logits, and
Gradients", arXiv 2203.10163.
"""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from ._common import Activation, check_option, check_positive, prepare_pair, weighted_mean


def quadratic_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    activation: Activation = 'softmax',
    weights: Tensor | None = None,
) -> Tensor:
    r"""Pull the student's logits to the teacher's, most for classes of which the teacher is unsure.

    With :math:`\Delta = (s - t) / \tau` and the teacher's :math:`p = \mathrm{softmax}(t / \tau)`,
    the loss is the mean over samples of

    .. math:: \tfrac{1}{2} \mathrm{Var}_p(\Delta)
        = \tfrac{1}{2} \sum_c p_c \Big( \Delta_c - \sum_k p_k \Delta_k \Big)^2

    which is :math:`KL(p \,\|\, q)` to second order in :math:`\Delta`, without the saturation of its
    gradient where the student is far off. For ``activation='sigmoid'`` each class is a distribution
    of yes and no in itself, and the same expansion (ours) is

    .. math:: \tfrac{1}{2} \sum_c p_c (1 - p_c) \Delta_c^2, \quad p = \sigma(t / \tau)

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        temperature: :math:`\tau`, positive. The loss is not multiplied by its square.
        activation: What turns the head's logits into scores.
        weights: Shape (S,), for a weighted mean, or None.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, weights that are not
            S numbers, an unknown activation, and a temperature that is not positive.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_option('activation', activation, get_args(Activation))
    check_positive('temperature', temperature)
    differences = (student - teacher) / temperature
    teacher = teacher / temperature
    if activation == 'softmax':
        curvatures = teacher.softmax(1)
        differences = differences - (curvatures * differences).sum(1, keepdim=True)
    else:
        # 1 - sigmoid(x) is computed as sigmoid(-x), because the difference loses digits near 1.
        curvatures = teacher.sigmoid() * (-teacher).sigmoid()
    return 0.5 * weighted_mean((curvatures * differences.square()).sum(1), weights)
