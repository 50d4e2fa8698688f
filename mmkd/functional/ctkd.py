"""CTKD: KD at a temperature that is trained against the student.

Li, Li, Yang, Zhao, Song, Luo, Li, Yang: "Curriculum Temperature for Knowledge Distillation", AAAI
2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import check_not_negative, check_positive, prepare_pair, weighted_mean
from ._divergence import categorical_kl
from .rows import at_least_float32


def ctkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    raw_temperature: float | Tensor = 1.0,
    reversal: float = 1.0,
    lowest: float = 1.0,
    span: float = 20.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""KD at a temperature whose gradient is reversed: it makes the task harder for the student.

    With :math:`\tau = \tau_{low} + \tau_{span} \, \sigma(r)`, teacher
    :math:`p = \mathrm{softmax}(t / \tau)` and student :math:`q = \mathrm{softmax}(s / \tau)`, the
    loss is the mean over samples i of

    .. math:: L = \tau^2 \, KL(p_i \,\|\, q_i)

    and the gradient that the raw temperature r gets is
    :math:`-\lambda \, \partial L / \partial r`: whoever minimises L trains r to maximise it.
    Of the paper this is the one temperature for all samples; a temperature for each, by a network
    that sees both logits, is not built.

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        raw_temperature: r, a tensor of one element to be trained, or a number. Published: starts
            at 1, a temperature of 15.6.
        reversal: :math:`\lambda`, not negative. Published: from 0 to 1 along half a cosine in the
            first 10 epochs.
        lowest: :math:`\tau_{low}`, positive. Published: 1.
        span: :math:`\tau_{span}`, positive. Published: 20.
        weights: Shape (S,), for a weighted mean, or None.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, weights that are not
            S numbers, a raw temperature of more than one element, a lowest or span that is not
            positive, and a reversal below 0.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_positive('lowest', lowest)
    check_positive('span', span)
    check_not_negative(reversal=reversal)
    if not isinstance(raw_temperature, Tensor):
        raw_temperature = torch.full(
            (), raw_temperature, dtype=student.dtype, device=student.device
        )
    if raw_temperature.numel() != 1:
        raise ValueError(
            f'raw_temperature: {tuple(raw_temperature.shape)} is not one number for all samples'
        )
    raw = at_least_float32(raw_temperature).reshape(())
    constant = raw.detach()
    temperature = lowest + span * (constant - reversal * (raw - constant)).sigmoid()
    divergences = categorical_kl(student / temperature, teacher / temperature)
    return temperature.square() * weighted_mean(divergences, weights)
