"""OFA-KD's loss on logits: cross entropy with the teacher, its target class enhanced.

Hao, Guo, Han, Tang, Hu, Wang, Xu: "One-for-All: Bridge the Gap Between Heterogeneous Architectures
in Knowledge Distillation", NeurIPS 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import check_labels, check_num_classes, check_positive, prepare_pair, weighted_mean


def ofa_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    gamma: float = 1.5,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Weigh the target class the more, the more confident of it the teacher is.

    With teacher :math:`p = \mathrm{softmax}(t / \tau)`, student
    :math:`q = \mathrm{softmax}(s / \tau)` and y the target class, the loss is the mean over samples
    of

    .. math:: - \left[ (1 + p_y)^\gamma - 1 \right] \log q_y - \sum_{c \ne y} p_c^\gamma \log q_c

    For :math:`\gamma = 1` this is the cross entropy with the teacher, whose gradient is that of KD.
    The form is that of the authors' code: it takes the cross entropy with the label, the 1, out of
    the paper's :math:`(1 + p_y)^\gamma`, since the student's own loss has it, and raises the other
    classes to :math:`\gamma`, too, which the paper leaves as they are. OFA-KD also adds this loss
    for classifiers on intermediate stages of the student, which are no part of this function.

    Args:
        student_logits: Shape (S, C), C >= 2.
        teacher_logits: Shape (S, C). Gets no gradient.
        labels: Target classes, integers of shape (S,). Background is a class like any other.
        gamma: :math:`\gamma`, positive. Published: 1.5 for ResNet-18 under DeiT-T.
        temperature: :math:`\tau`, positive. The loss is not multiplied by its square. Published: 1.
        weights: Shape (S,), for a weighted mean, or None.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape with C >= 2, labels
            that are not S integers within [0, C) (the range is checked in CPU memory only),
            weights that are not S numbers, and a gamma or temperature that is not positive.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_num_classes(student.shape[1])
    check_labels(labels, *student.shape)
    check_positive('gamma', gamma)
    check_positive('temperature', temperature)

    probs = (teacher / temperature).softmax(1)
    labels = labels.long().unsqueeze(1)
    enhanced = torch.expm1(gamma * probs.gather(1, labels).log1p())
    targets = probs.pow(gamma).scatter(1, labels, enhanced)
    log_probs = (student / temperature).log_softmax(1)
    return weighted_mean(-(targets * log_probs).sum(1), weights)
