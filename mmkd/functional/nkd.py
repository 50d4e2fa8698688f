"""NKD: cross entropies with the teacher, the non-target classes normalised.

Yang et al.: "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
Normalized Loss and Customized Soft Labels", ICCV 2023.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ._common import (
    check_labels,
    check_not_negative,
    check_num_classes,
    check_positive,
    prepare_pair,
    weighted_mean,
)
from ._divergence import split_target, target_log_odds


def nkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    gamma: float = 1.5,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Add the teacher-weighted cross entropies of the target class and of all others.

    With :math:`p = \mathrm{softmax}(t)` of the teacher, :math:`q = \mathrm{softmax}(s)` of the
    student, and :math:`\hat p^\lambda, \hat q^\lambda` the softmaxes of their non-target logits
    divided by the temperature :math:`\lambda`, the loss is the mean over samples i of

    .. math:: -p_y \log q_y
        - \gamma \lambda^2 \sum_{c \ne y} \hat p^\lambda_c \log \hat q^\lambda_c

    These are cross entropies: equal logits give the teacher's own entropy, not zero.

    Args:
        student_logits: Shape (S, C), C >= 2.
        teacher_logits: Shape (S, C). Gets no gradient.
        labels: Target classes, integers of shape (S,). Background is a class like any other.
        gamma: Weight of the non-target classes.
        temperature: :math:`\lambda`, positive; of the non-target classes only.
        weights: Shape (S,), for a weighted mean, or None.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape with C >= 2, labels
            that are not S integers within [0, C) (the range is checked in CPU memory only),
            weights that are not S numbers, a temperature that is not positive, and a gamma that is
            negative.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_num_classes(student.shape[1])
    check_labels(labels, *student.shape)
    check_positive('temperature', temperature)
    check_not_negative(gamma=gamma)

    student_target, student_others = split_target(student, labels)
    teacher_target, teacher_others = split_target(teacher, labels)
    teacher_confidences = target_log_odds(teacher_target, teacher_others).sigmoid()
    student_log_confidences = F.logsigmoid(target_log_odds(student_target, student_others))
    target_terms = -teacher_confidences * student_log_confidences

    teacher_probs = (teacher_others / temperature).softmax(1)
    student_log_probs = (student_others / temperature).log_softmax(1)
    other_terms = -(teacher_probs * student_log_probs).sum(1)
    return weighted_mean(target_terms + gamma * temperature**2 * other_terms, weights)
