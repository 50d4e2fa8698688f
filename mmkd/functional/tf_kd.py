"""Tf-KD: a teacher that is no network but a smoothed label.

Yuan, Tay, Li, Wang, Feng: "Revisiting Knowledge Distillation via Label Smoothing Regularization",
CVPR 2020.
"""

from __future__ import annotations

import math

from torch import Tensor

from ._common import check_num_classes
from .rows import at_least_float32


def virtual_logits(shares: Tensor, confidence: float = 0.99) -> Tensor:
    r"""The logits of a teacher that knows the label: a for its class, the rest shared by the others.

    .. math:: t_c = \log p_c, \quad p_c = a \, y_c + \frac{1 - a}{C - 1} (1 - y_c)

    so that ``softmax(t)`` is the paper's manually designed distribution, and ``softmax(t / τ)`` what
    :func:`mmkd.functional.kd_loss` makes of it at a temperature. For shares of several classes, as
    Mixup and CutMix make them, p is the mixture of their distributions (ours). The authors' code
    softens otherwise, ``softmax(p / τ)``, and compares that with the student's probabilities at
    temperature 1; this is the paper's form.

    Args:
        shares: y, shape (S, C), C >= 2: 1 for the label and 0 for all others, or shares that add up
            to 1.
        confidence: a, between 0 and 1. Published: 0.99.

    Returns:
        Shape (S, C), float32 or wider.

    Raises:
        ValueError: For shares that are no matrix of two columns or more, and a confidence that is not
            between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f'confidence: {confidence!r} is not between 0 and 1')
    if shares.dim() != 2:
        raise ValueError(f'shares: shape {tuple(shares.shape)} is not (S, C)')
    num_classes = shares.shape[1]
    check_num_classes(num_classes)
    rest = (1 - confidence) / (num_classes - 1)
    return at_least_float32(shares).mul((confidence - rest) / rest).log1p() + math.log(rest)
