"""CRD: tell the teacher's embedding of the same sample from those of many others.

Tian, Krishnan, Isola: "Contrastive Representation Distillation", ICLR 2020.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import check_positive, prepare_pair, with_gradients
from .rows import unit_rows


def crd_loss(
    student: Tensor,
    teacher: Tensor,
    bank: Tensor,
    negatives: Tensor,
    temperature: float = 0.07,
    counted: Tensor | None = None,
    log_mean: Tensor | None = None,
) -> Tensor:
    r"""Noise-contrastive estimation of which embedding of a bank belongs to the same sample.

    With unit vectors :math:`v_i` of one network and :math:`b_j` of the other,
    :math:`x_{ij} = v_i^T b_j / \tau - \log m - \log K` and :math:`\sigma` the sigmoid, the loss is
    the mean over samples i of

    .. math:: - \log \sigma(x_{ii}) - \sum_{k \in N_i} \log \sigma(-x_{ik})

    where :math:`N_i` are K samples drawn from the bank and m is the mean of
    :math:`\exp(v_i^T b_j / \tau)` over the first batch's positives and negatives. The published
    loss is the sum of the student's against the teacher's bank and the teacher's against the
    student's; its constant :math:`10^{-7}` in the denominators is not needed in this form, which
    takes logarithms without quotients.

    Time and memory grow with S times the size of the bank. The function can be differentiated once,
    not twice.

    Args:
        student: The embeddings that learn, shape (S, D), of any length.
        teacher: The bank's embeddings of the same samples, shape (S, D), of any length. Get no
            gradient.
        bank: :math:`b`, shape (M, D), of length 1. Gets no gradient.
        negatives: :math:`N_i`, rows of the bank, integers of shape (S, K), K >= 1.
        temperature: :math:`\tau`, positive. Published: 0.07.
        counted: Booleans of shape (S, K), or None: those of the negatives that count, such as the
            samples of other classes.
        log_mean: :math:`\log m`, a tensor of one element that is kept from step to step, as the
            running statistics of ``torch.nn.functional.batch_norm`` are: NaN is replaced, in
            place, by what the batch gives. None takes that and keeps nothing.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For embeddings that are not two (S, D) matrices of one shape, a bank that is not
            an (M, D) matrix, negatives or counted that are not (S, K) matrices, and a temperature
            that is not positive.
    """
    student, teacher = prepare_pair(student, teacher, ('S', 'D'), name='embeddings')
    check_positive('temperature', temperature)
    if bank.dim() != 2 or bank.shape[1] != student.shape[1]:
        raise ValueError(f'bank: shape {tuple(bank.shape)} is not (M, {student.shape[1]})')
    if negatives.dim() != 2 or len(negatives) != len(student) or negatives.shape[1] == 0:
        raise ValueError(f'negatives: shape {tuple(negatives.shape)} is not ({len(student)}, K)')
    if counted is not None and counted.shape != negatives.shape:
        raise ValueError(
            f'counted: shape {tuple(counted.shape)} is not that of the negatives, '
            f'{tuple(negatives.shape)}'
        )
    anchors = unit_rows(student)
    with torch.no_grad():
        total, gradient = _contrast(
            anchors,
            unit_rows(teacher).to(anchors),
            bank.to(anchors),
            negatives.to(anchors.device),
            temperature,
            counted,
            log_mean,
        )
    return with_gradients(total, (anchors, gradient)) / max(len(anchors), 1)


def _contrast(
    anchors: Tensor,
    positives: Tensor,
    bank: Tensor,
    negatives: Tensor,
    temperature: float,
    counted: Tensor | None,
    log_mean: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The sum over the samples, and its gradient with respect to the anchors.

    It is made now, because the bank may have moved before the backward pass.
    """
    # In place, because autocast leaves that in the precision of its operands. Gathered rows of the
    # bank, (S, K, D), would be larger than all products as soon as K D exceeds M.
    products = anchors.new_empty(len(anchors), len(bank)).addmm_(anchors, bank.T, beta=0)
    cosines = torch.cat(
        [(anchors * positives).sum(1, keepdim=True), products.gather(1, negatives)], dim=1
    )
    scores = cosines / temperature
    mean = scores.flatten().logsumexp(0) - math.log(max(scores.numel(), 1))
    if log_mean is not None:
        known = log_mean.isnan() & (mean > -math.inf)
        mean = log_mean.copy_(torch.where(known, mean.to(log_mean), log_mean)).to(scores)
    scores = scores - mean - math.log(negatives.shape[1])
    values, slopes = F.softplus(scores[:, 1:]), scores[:, 1:].sigmoid()
    if counted is not None:
        values, slopes = values * counted, slopes * counted
    total = F.softplus(-scores[:, 0]).sum() + values.sum()
    of_products = products.zero_().scatter_add_(1, negatives, slopes)
    gradient = positives * -(-scores[:, :1]).sigmoid()
    return total, gradient.addmm_(of_products, bank).div_(temperature)
