"""How far two networks agree on the same samples, in numbers between 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import unit_rows


def cosine_similarities(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The matrix M of CKD at temperature 1.

    Args:
        student_logits: Shape (S, C), one row per sample.
        teacher_logits: Shape (S, C), row i belonging to row i of the student.

    Returns:
        Shape (S, S): entry (i, j) is the cosine of the teacher's row i and the student's row j.
    """
    return unit_rows(teacher_logits) @ unit_rows(student_logits).T


def matches(similarities: Tensor, same: Tensor | None = None) -> Tensor:
    """Where the diagonal wins: the teacher's row is closer to the student's of the same sample than to any other.

    Args:
        similarities: Shape (S, S), of :func:`cosine_similarities`.
        same: Shape (S, S), bool, or None: where two samples show the same object and do not compete,
            as in :func:`mmkd.functional.ckd_loss`.

    Returns:
        Shape (S,), bool. An equal rival is no win.
    """
    own = torch.eye(len(similarities), dtype=torch.bool, device=similarities.device)
    excluded = own if same is None else own | same
    rivals = similarities.masked_fill(excluded, -torch.inf)
    if not len(similarities):
        return own.any(dim=1)
    return similarities.diagonal() > rivals.amax(dim=1)


def same_top1(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Where both networks' highest logit is the same class.

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C).

    Returns:
        Shape (S,), bool.
    """
    return student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
