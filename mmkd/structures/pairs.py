"""Aligned student and teacher outputs, the only things a loss sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
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
            None if there are no labels.
        weights: (S,) weight that the student's own classification loss gave a sample (0 for ignored ones).
        image_ids: (S,) index of the image within the batch.
        object_ids: (S,) index of the ground truth within its image that a sample belongs to, -1 for none.
        locate: Computes :attr:`boxes`.
        locate_cells: Computes :attr:`cells`.
        locate_predicted: Computes :attr:`teacher_boxes`.
    """

    student: Tensor
    teacher: Tensor
    activation: Activation
    num_classes: int
    labels: Tensor | None
    weights: Tensor
    image_ids: Tensor
    object_ids: Tensor
    locate: Callable[[], Tensor | None] = lambda: None
    locate_cells: Callable[[], Tensor | None] = lambda: None
    locate_predicted: Callable[[], Tensor | None] = lambda: None

    def __post_init__(self) -> None:
        _check_aligned(self.student, self.teacher, 'logits')

    def __len__(self) -> int:
        return len(self.student)

    @cached_property
    def boxes(self) -> Tensor | None:
        """(S, 4) xyxy boxes of the samples (anchors, RoIs) in pixels of the network's input, or None."""
        return self.locate()

    @cached_property
    def cells(self) -> Tensor | None:
        """(S, 3) level, row and column of the cell that a sample of a dense head belongs to, or None."""
        return self.locate_cells()

    @cached_property
    def teacher_boxes(self) -> Tensor | None:
        """(S, 4) xyxy boxes that the teacher predicts for the samples, for losses that also ask for boxes; or None."""
        return self.locate_predicted()

    @property
    def object_groups(self) -> Tensor:
        """(S,) integers, equal where two samples show the same object of the same image, -1 for none."""
        groups = self.image_ids * _MOST_OBJECTS + self.object_ids
        return torch.where(self.object_ids >= 0, groups, -1)


@dataclass(frozen=True)
class BoxPairs:
    """S aligned pairs of predicted boxes, decoded as each head decodes them, but not clipped to the image.

    Attributes:
        student: (S, 4) xyxy boxes that the student predicts, in pixels of the network's input, attached to its graph.
        teacher: (S, 4) boxes that the teacher predicts for the same samples, without gradient.
        student_confidence: (S,) the student's highest foreground probability, times its objectness where the head has
            one; without gradient.
        teacher_confidence: (S,) the same of the teacher.
        image_sizes: (S, 2) width and height of each sample's image, in pixels, without padding.
        labels: (S,) class that the student's own assignment gave a sample, or None.
        weights: (S,) weight that the student's own classification loss gave a sample (0 for ignored ones).
        image_ids: (S,) index of the image within the batch.
        object_ids: (S,) index of the ground truth within its image that a sample belongs to, -1 for none.
        student_distributions: (S, 4, bins) logits of where each side lies, attached, for heads that predict a
            distribution (GFL); else None.
        teacher_distributions: (S, 4, bins) the same of the teacher, without gradient.
    """

    student: Tensor
    teacher: Tensor
    student_confidence: Tensor
    teacher_confidence: Tensor
    image_sizes: Tensor
    labels: Tensor | None
    weights: Tensor
    image_ids: Tensor
    object_ids: Tensor
    student_distributions: Tensor | None = None
    teacher_distributions: Tensor | None = None

    def __post_init__(self) -> None:
        _check_aligned(self.student, self.teacher, 'boxes')
        if self.student_distributions is not None and self.teacher_distributions is not None:
            _check_aligned(
                self.student_distributions, self.teacher_distributions, 'box distributions'
            )

    def __len__(self) -> int:
        return len(self.student)


@dataclass(frozen=True)
class FeaturePair:
    """Features of one level: maps (B, C, H, W) or pooled features (B, C), of equal B, H and W.

    Attributes:
        level: Index among the levels that both networks have, shallow to deep.
        stride: Pixels of the network's input per cell; None for pooled features.
        student: The student's features, attached to its graph.
        teacher: The teacher's features, without gradient.
    """

    level: int
    stride: int | None
    student: Tensor
    teacher: Tensor


def _check_aligned(student: Tensor, teacher: Tensor, what: str) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f'{what} of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} are not aligned'
        )
