"""Kullback-Leibler divergences from logits, without over- or underflow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def categorical_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Sum ``KL(softmax(teacher) || softmax(student))`` over the last dimension."""
    student_log_probs = student_logits.log_softmax(-1)
    teacher_log_probs = teacher_logits.log_softmax(-1)
    return F.kl_div(student_log_probs, teacher_log_probs, reduction='none', log_target=True).sum(-1)


def binary_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """``KL([p, 1 - p] || [q, 1 - q])``, p and q the sigmoids of the logits, element by element."""
    # 1 - sigmoid(x) is computed as sigmoid(-x), because the difference loses digits near 1.
    positive = F.logsigmoid(teacher_logits) - F.logsigmoid(student_logits)
    negative = F.logsigmoid(-teacher_logits) - F.logsigmoid(-student_logits)
    return teacher_logits.sigmoid() * positive + (-teacher_logits).sigmoid() * negative


def split_target(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split (S, C) logits into those of the labels, (S,), and all others, (S, C - 1)."""
    labels = labels.long().unsqueeze(1)
    # Indices, because the host would have to wait for the count of a boolean mask.
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= labels)
    return logits.gather(1, labels).squeeze(1), logits.gather(1, others)


def target_log_odds(target_logits: Tensor, other_logits: Tensor) -> Tensor:
    """The logit of the target class against all others together, ``log(p_y / (1 - p_y))``.

    With it, both ``log p_y = logsigmoid(x)`` and ``log(1 - p_y) = logsigmoid(-x)`` are accurate for
    every confidence, while ``log1mexp(log p_y)`` is -inf as soon as p_y rounds to 1.
    """
    return target_logits - other_logits.logsumexp(1)
