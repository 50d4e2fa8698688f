"""AEKT: adaptive explicit knowledge transfer, reconstructed from its abstract and analysis.

Park, Lee: arXiv 2409.01679.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import (
    Activation,
    check_labels,
    check_not_negative,
    check_num_classes,
    check_option,
    check_positive,
    prepare_pair,
    prepare_weights,
    weighted_mean,
)
from ._divergence import binary_kl, categorical_kl, split_target, target_log_odds
from .processes import mean_over_processes

ExplicitTerm = Literal['relative_tckd', 'ratio_tckd', 'ratio', 'nkd', 'tckd']
NonTargetTerm = Literal['nckd', 'binary_kl']


def aekt_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    gamma: float = 1.0,
    r_max: float = 4.0,
    explicit: ExplicitTerm = 'relative_tckd',
    activation: Activation = 'softmax',
    non_target: NonTargetTerm = 'nckd',
    weights: Tensor | None = None,
    gather: bool = False,
) -> Tensor:
    r"""AEKT, reconstructed from its abstract and analysis (Park, Lee: arXiv 2409.01679).

    The paper's full equations were not available and no code is public. What it states: the
    non-target ("implicit") knowledge of DKD has an adaptive effect; the teacher's confidence in
    the target class ("explicit" knowledge) is to be taught adaptively too, weighted by the ratio
    of teacher and student; a serial layer separates the task's logits from the distilled ones
    (it is not part of this function). The form is ours. With teacher
    :math:`p = \mathrm{softmax}(t / \tau)`, student :math:`q = \mathrm{softmax}(s / \tau)`, y the
    target class and :math:`\hat p, \hat q` the non-target classes renormalised, the loss is the
    mean over samples i of

    .. math:: \alpha \, E_i + \beta \tau^2 \, KL(\hat p \,\|\, \hat q), \quad
        E_i = \frac{r_i}{\mathrm{mean}_j \, r_j} \,
              \tau^2 \, KL([p_y, 1 - p_y] \,\|\, [q_y, 1 - q_y]), \quad
        r_i = \mathrm{sg}[\mathrm{clip}(p_y / q_y, 0, r_{max})^\gamma]

    where sg stops the gradient: DKD's target term, averaged with the lag of the student as the
    weight of a sample.

    ``explicit`` chooses E:

    - ``'relative_tckd'``: the above.
    - ``'ratio_tckd'``: not divided by the mean, so that the term as a whole also grows with the
      lag. With gamma 1, unclipped, :math:`\partial E / \partial s_y = \tau p_y (1 - p_y / q_y)`.
    - ``'ratio'``: :math:`\tau \, p_y / q_y`, differentiated. Past ``r_max`` it continues as its
      tangent in :math:`\log r`, :math:`\tau r_{max} (1 + \log(r / r_{max}))`, since a clipped
      value would leave the worst samples without a gradient. ``gamma`` has no part in it.
    - ``'nkd'``: :math:`-\tau \, p_y \log q_y`. ``gamma`` and ``r_max`` have no part in it.
    - ``'tckd'``: the factor is 1, which is :func:`dkd_loss` exactly.

    For equal logits the three forms with ``tckd`` give zero, ``'ratio'`` and ``'nkd'`` do not.

    With ``activation='sigmoid'`` the target class is binary in itself,
    :math:`p_y = \sigma(t_y / \tau)` and :math:`q_y = \sigma(s_y / \tau)`, and ``non_target``
    chooses what is distilled of the other classes:

    - ``'nckd'``: the same as above, a softmax over their logits.
    - ``'binary_kl'``: the sum of the divergences of :math:`\sigma(t_c / \tau)` and
      :math:`\sigma(s_c / \tau)`, each a distribution of yes and no.

    Args:
        student_logits: Shape (S, C), C >= 2 for softmax; the output of the serial layer, if any.
        teacher_logits: Shape (S, C). Gets no gradient.
        labels: Target classes, integers of shape (S,). For softmax background is a class like any
            other; for sigmoid, where it has no logit, pass the foreground samples only.
        alpha: Weight of the explicit term.
        beta: Weight of the non-target term.
        temperature: :math:`\tau`, positive.
        gamma: Exponent of the ratio, not negative.
        r_max: The largest ratio, positive.
        explicit: The form of the explicit term.
        activation: What turns the head's logits into scores.
        non_target: The form of the non-target term; softmax has ``'nckd'`` only.
        weights: Shape (S,), for a weighted mean, also of the ratios, or None.
        gather: The mean of the ratios is that of the samples of all processes.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, labels that are not
            S integers within [0, C) (the range is checked in CPU memory only), weights that are
            not S numbers, an unknown option, ``'binary_kl'`` for softmax, and an alpha, beta,
            temperature, gamma or r_max outside its range.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_option('explicit', explicit, get_args(ExplicitTerm))
    check_option('activation', activation, get_args(Activation))
    check_option('non_target', non_target, get_args(NonTargetTerm))
    if activation == 'softmax':
        check_num_classes(student.shape[1])
        if non_target != 'nckd':
            raise ValueError(
                f'non_target: {non_target!r} is for sigmoid heads, the classes of a softmax are '
                "no independent decisions: use 'nckd'"
            )
    check_labels(labels, *student.shape)
    check_positive('temperature', temperature)
    check_positive('r_max', r_max)
    check_not_negative(alpha=alpha, beta=beta, gamma=gamma)

    student_target, student_others = split_target(student / temperature, labels)
    teacher_target, teacher_others = split_target(teacher / temperature, labels)
    if activation == 'softmax':
        student_odds = target_log_odds(student_target, student_others)
        teacher_odds = target_log_odds(teacher_target, teacher_others)
    else:
        student_odds, teacher_odds = student_target, teacher_target
    weights = prepare_weights(weights, len(student))
    explicit_terms = _explicit_terms(
        student_odds, teacher_odds, temperature, gamma, r_max, explicit
    )
    if explicit == 'relative_tckd':
        factors = _ratios(student_odds, teacher_odds, gamma, r_max)
        explicit_terms = explicit_terms * (factors / _mean(factors, weights, gather))
    if non_target == 'nckd':
        divergences = categorical_kl(student_others, teacher_others)
    else:
        divergences = binary_kl(student_others, teacher_others).sum(1)
    return weighted_mean(alpha * explicit_terms + beta * (temperature**2 * divergences), weights)


def fold_serial_layer(
    weight: Tensor, bias: Tensor, offset: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    r"""A class layer and AEKT's serial layer behind it as one layer of the class layer's shape.

    The class layer outputs A blocks of C logits s (linear: A = 1; a convolution: A priors at a
    location), the serial layer makes :math:`z = (I + D) s + d` of each block. Both are linear, so
    z is what a class layer with other weights outputs: :math:`W' = W + D W, b' = b + D b + d`.
    With D and d zero these are W and b, bit for bit.

    Args:
        weight: Shape (A * C, ...).
        bias: Shape (A * C,).
        offset: D, shape (C, C).
        shift: d, shape (C,).

    Returns:
        Weight and bias of the one layer, differentiable in all arguments.

    Raises:
        ValueError: A class layer's rows are no multiple of C.
    """
    num_logits = len(shift)
    if len(weight) % num_logits:
        raise ValueError(f'weight: {len(weight)} rows are no blocks of {num_logits} logits')
    # One product of two matrices: what torch.matmul makes of more depends on who wants a gradient,
    # and an export has to round as training does.
    columns = weight.reshape(-1, num_logits, weight[0].numel()).transpose(0, 1).flatten(1)
    added = offset.mm(columns).unflatten(1, (-1, weight[0].numel())).transpose(0, 1)
    biases = bias.reshape(-1, num_logits)
    return (
        weight + added.reshape(weight.shape),
        bias + (biases.mm(offset.t()) + shift).reshape(bias.shape),
    )


def _explicit_terms(
    student_odds: Tensor,
    teacher_odds: Tensor,
    temperature: float,
    gamma: float,
    r_max: float,
    explicit: ExplicitTerm,
) -> Tensor:
    """E of :func:`aekt_loss`, shape (S,), from the log-odds of the target class; not relative to other samples."""
    student_log_confidences = F.logsigmoid(student_odds)
    if explicit == 'nkd':
        return -temperature * teacher_odds.sigmoid() * student_log_confidences
    if explicit == 'ratio':
        # Clipped before the exponential: the ratio overflows where its logarithm is harmless.
        log_ratios = F.logsigmoid(teacher_odds) - student_log_confidences
        clipped = log_ratios.clamp(max=math.log(r_max))
        return temperature * (clipped.exp() + r_max * (log_ratios - clipped))
    divergences = temperature**2 * binary_kl(student_odds, teacher_odds)
    if explicit == 'ratio_tckd':
        return divergences * _ratios(student_odds, teacher_odds, gamma, r_max)
    return divergences


def _ratios(student_odds: Tensor, teacher_odds: Tensor, gamma: float, r_max: float) -> Tensor:
    """The ratios r of :func:`aekt_loss`, shape (S,), without a gradient."""
    log_ratios = F.logsigmoid(teacher_odds) - F.logsigmoid(student_odds.detach())
    return (gamma * log_ratios.clamp(max=math.log(r_max))).exp()


def _mean(values: Tensor, weights: Tensor | None, gather: bool) -> Tensor:
    """The weighted mean of (S,) positive values; 1 if all weights are 0."""
    weights = torch.ones_like(values) if weights is None else weights
    sums = torch.stack([(weights * values).sum(), weights.sum()])
    if gather:
        sums = mean_over_processes(sums)
    smallest = torch.finfo(sums.dtype).tiny
    return torch.where(sums[1] > 0, sums[0].clamp(min=smallest) / sums[1], 1.0)
