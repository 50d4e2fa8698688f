"""DKD: knowledge distillation decoupled into the target class and all others.

Zhao, Cui, Song, Qiu, Liang: "Decoupled Knowledge Distillation", CVPR 2022.
"""

from __future__ import annotations

from torch import Tensor

from ._common import (
    check_labels,
    check_not_negative,
    check_num_classes,
    check_positive,
    prepare_pair,
    weighted_mean,
)
from ._divergence import binary_kl, categorical_kl, split_target, target_log_odds


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Weigh the parts of KD for the target class and for all others independently.

    With :func:`tckd` and :func:`nckd`, the loss is the mean over samples i of

    .. math:: \tau^2 \, (\alpha \, TCKD_i + \beta \, NCKD_i)

    Plain KD has :math:`1 - p_y` instead of beta, which suppresses the non-target classes exactly
    where the teacher is confident.

    Args:
        student_logits: Shape (S, C), C >= 2.
        teacher_logits: Shape (S, C). Gets no gradient.
        labels: Target classes, integers of shape (S,). Background is a class like any other.
        alpha: Weight of the target class.
        beta: Weight of the others. Published: 2, 6 or 8 on CIFAR-100 at temperature 4; 0.5 or 2 on
            ImageNet and 0.25 for Faster R-CNN at temperature 1.
        temperature: :math:`\tau`, positive.
        weights: Shape (S,), for a weighted mean, or None.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape with C >= 2, labels
            that are not S integers within [0, C) (the range is checked in CPU memory only),
            weights that are not S numbers, a temperature that is not positive, and an alpha or
            beta that is negative.
    """
    check_not_negative(alpha=alpha, beta=beta)
    # tckd() and nckd() would each bring the student to float32, and a float16 student would then
    # add up their gradients in float16.
    student_target, student_others, teacher_target, teacher_others = _split_pair(
        student_logits, teacher_logits, labels, temperature
    )
    target_terms = temperature**2 * binary_kl(
        target_log_odds(student_target, student_others),
        target_log_odds(teacher_target, teacher_others),
    )
    other_terms = temperature**2 * categorical_kl(student_others, teacher_others)
    return weighted_mean(alpha * target_terms + beta * other_terms, weights)


def tckd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0
) -> Tensor:
    r"""The target-class part of KD: is it this class or not?

    .. math:: TCKD_i = KL([p_y, 1 - p_y] \,\|\, [q_y, 1 - q_y])

    with teacher :math:`p = \mathrm{softmax}(t / \tau)`, student
    :math:`q = \mathrm{softmax}(s / \tau)` and y the target class. For every sample
    :math:`KL(p \,\|\, q) = TCKD + (1 - p_y) \, NCKD`.

    Args:
        student_logits: Shape (S, C), C >= 2.
        teacher_logits: Shape (S, C). Gets no gradient.
        labels: Target classes, integers of shape (S,).
        temperature: :math:`\tau`, positive.

    Returns:
        Shape (S,), not multiplied by the squared temperature.

    Raises:
        ValueError: As :func:`dkd_loss`.
    """
    student_target, student_others, teacher_target, teacher_others = _split_pair(
        student_logits, teacher_logits, labels, temperature
    )
    return binary_kl(
        target_log_odds(student_target, student_others),
        target_log_odds(teacher_target, teacher_others),
    )


def nckd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0
) -> Tensor:
    r"""The non-target-class part of KD: if it is not this class, which one is it?

    .. math:: NCKD_i = KL(\hat p \,\|\, \hat q), \quad
        \hat p_c = \frac{p_c}{1 - p_y}, \; \hat q_c = \frac{q_c}{1 - q_y}, \; c \ne y

    with p and q as in :func:`tckd`.

    Args:
        student_logits: Shape (S, C), C >= 2. For C = 2 only one class is left and the result is 0.
        teacher_logits: Shape (S, C). Gets no gradient.
        labels: Target classes, integers of shape (S,).
        temperature: :math:`\tau`, positive.

    Returns:
        Shape (S,), not multiplied by the squared temperature.

    Raises:
        ValueError: As :func:`dkd_loss`.
    """
    _, student_others, _, teacher_others = _split_pair(
        student_logits, teacher_logits, labels, temperature
    )
    return categorical_kl(student_others, teacher_others)


def _split_pair(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_num_classes(student.shape[1])
    check_labels(labels, *student.shape)
    check_positive('temperature', temperature)
    student_target, student_others = split_target(student / temperature, labels)
    teacher_target, teacher_others = split_target(teacher / temperature, labels)
    return student_target, student_others, teacher_target, teacher_others
