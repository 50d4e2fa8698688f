"""Aligned student and teacher outputs, the only things a loss sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Activation = Literal['softmax', 'sigmoid']

_MOST_OBJECTS = 2**32


@dataclass(frozen=True)
class LogitPairs:
    """S aligned pairs of logit vectors.

    Attributes:
        student: (S, C) logits of the student, attached to its graph.
        teacher: (S, C) logits of the teacher, without gradient.
        activation: ``'softmax'`` or ``'sigmoid'``: what turns a row into probabilities.
        num_classes: Foreground classes. A softmax row may have one more column, the background's.
        labels: (S,) class that the student's own assignment gave a sample; ``num_classes`` is background.
            None where there are no labels.
        weights: (S,) weight that the student's own classification loss gave a sample (0 for ignored ones).
        image_ids: (S,) index of the image within the batch.
        object_ids: (S,) index of the ground truth within its image that a sample belongs to, -1 for none.
        boxes: (S, 4) xyxy boxes in pixels of the network's input, or None.
    """

    student: Tensor
    teacher: Tensor
    activation: Activation
    num_classes: int
    labels: Tensor | None
    weights: Tensor
    image_ids: Tensor
    object_ids: Tensor
    boxes: Tensor | None = None

    def __post_init__(self) -> None:
        if self.student.shape != self.teacher.shape:
            raise ValueError(
                f'logits of student {tuple(self.student.shape)} and teacher '
                f'{tuple(self.teacher.shape)} are not aligned'
            )
        _check_finite(self.teacher, 'logits', 'samples')

    def __len__(self) -> int:
        return len(self.student)

    @property
    def object_groups(self) -> Tensor:
        """(S,) integers, equal where two samples show the same object of the same image, -1 for none."""
        groups = self.image_ids * _MOST_OBJECTS + self.object_ids
        return torch.where(self.object_ids >= 0, groups, -1)


@dataclass(frozen=True)
class FeaturePair:
    """Feature maps of one level: (B, C, H, W) of the student and of the teacher (no gradient)."""

    level: int
    student: Tensor
    teacher: Tensor

    def __post_init__(self) -> None:
        _check_finite(self.teacher, f'features of level {self.level}', 'images')


def _check_finite(teacher: Tensor, what: str, unit: str) -> None:
    finite = torch.isfinite(teacher)
    if not finite.all():
        bad = int((~finite).flatten(1).any(dim=1).sum())
        raise FloatingPointError(
            f"the teacher's {what} hold NaN or Inf in {bad} of {len(teacher)} {unit}: check "
            'teacher.checkpoint (a diverged run?); under --amp the teacher may overflow in float16: train '
            "without it, or with optim_wrapper.dtype='bfloat16'"
        )
