"""All samples that a head could distil in one step, before a loss picks the ones it wants."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .pairs import Activation, LogitPairs


@dataclass
class SampleTable(ABC):
    """N candidate samples, ordered image by image; logits are fetched only for the samples asked for.

    The teacher is asked for its outputs *at given samples*, so that it can be something else than a live
    network without a change to heads or losses.

    Attributes:
        activation: What turns a row of logits into probabilities.
        num_classes: Foreground classes; label ``num_classes`` is background.
        samples_per_image: Number of samples of each image of the batch; they sum to N.
        labels: (N,) class given by the student's own assignment, or None.
        weights: (N,) weight in the student's own classification loss.
        object_ids: (N,) index of the ground truth a sample belongs to, -1 for none.
    """

    activation: Activation
    num_classes: int
    samples_per_image: list[int]
    labels: Tensor | None
    weights: Tensor
    object_ids: Tensor
    image_ids: Tensor = field(init=False)

    def __post_init__(self) -> None:
        counts = torch.tensor(self.samples_per_image, dtype=torch.long, device=self.weights.device)
        images = torch.arange(len(counts), device=counts.device)
        self.image_ids = images.repeat_interleave(counts, output_size=len(self))

    def __len__(self) -> int:
        return sum(self.samples_per_image)

    @abstractmethod
    def student_logits(self, index: Tensor) -> Tensor:
        """(S, C) logits of the student at the (S,) samples ``index``, attached to the graph."""

    @abstractmethod
    def teacher_logits(self, index: Tensor) -> Tensor:
        """(S, C) logits of the teacher at the (S,) samples ``index``, without gradient."""

    @abstractmethod
    def teacher_confidence(self) -> Tensor:
        """(N,) the teacher's highest foreground probability of every sample."""

    def boxes(self, index: Tensor) -> Tensor | None:
        """(S, 4) xyxy boxes of the samples in input pixels, or None where a sample has no box."""
        return None

    def is_foreground(self) -> Tensor:
        """(N,) whether the student's assignment made a sample positive."""
        if self.labels is None:
            return torch.zeros(len(self), dtype=torch.bool, device=self.weights.device)
        return (self.labels >= 0) & (self.labels < self.num_classes) & (self.weights > 0)

    def pairs(self, sampler: Sampler) -> LogitPairs:
        """The logit pairs of the samples that ``sampler`` picks."""
        with torch.no_grad():
            index = sampler(self)
        return LogitPairs(
            student=self.student_logits(index),
            teacher=self.teacher_logits(index).detach(),
            activation=self.activation,
            num_classes=self.num_classes,
            labels=None if self.labels is None else self.labels[index],
            weights=self.weights[index],
            image_ids=self.image_ids[index],
            object_ids=self.object_ids[index],
            boxes=self.boxes(index),
        )


class Sampler(Protocol):
    """Picks samples of a table: a hashable callable, equal to another one that picks the same."""

    def __call__(self, table: SampleTable) -> Tensor:
        """(S,) indices of the picked samples, in ascending order."""
        ...
