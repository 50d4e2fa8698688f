"""KD: the teacher's softened class probabilities.

Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", 2015.
"""

from __future__ import annotations

from torch import Tensor

from ._common import check_positive, prepare_pair, weighted_mean
from ._divergence import categorical_kl


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Pull the student's class probabilities to the teacher's, both softened.

    With teacher :math:`p = \mathrm{softmax}(t / \tau)` and student
    :math:`q = \mathrm{softmax}(s / \tau)`, the loss is the mean over samples i of

    .. math:: \tau^2 \, KL(p_i \,\|\, q_i)

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        temperature: :math:`\tau`, positive. Published: 4 on CIFAR-100, 1 on ImageNet.
        weights: Shape (S,), for a weighted mean, or None.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, weights that are not
            S numbers, and a temperature that is not positive.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_positive('temperature', temperature)
    divergences = categorical_kl(student / temperature, teacher / temperature)
    return temperature**2 * weighted_mean(divergences, weights)
