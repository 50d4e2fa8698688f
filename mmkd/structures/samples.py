"""All samples of a training step, of which each loss picks the ones it compares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .pairs import Activation, BoxPairs, LogitPairs


@dataclass
class SampleTable(ABC):
    """N candidate samples, ordered image by image. Outputs are computed only for the samples that a loss asks for.

    The teacher is asked for its outputs *at given samples*, so it need not be a live network: heads and losses do not
    see the difference.

    Attributes:
        activation: What turns a row of logits into probabilities.
        num_classes: Foreground classes; label ``num_classes`` is background.
        samples_per_image: Number of samples of each image of the batch; they sum to N.
        labels: (N,) class given by the student's own assignment, or None.
        weights: (N,) weight in the student's own classification loss.
        object_ids: (N,) index of the ground truth a sample belongs to, -1 for none.
        num_foreground: Number of positive samples if the host knows it; None if only the device does.
    """

    activation: Activation
    num_classes: int
    samples_per_image: list[int]
    labels: Tensor | None
    weights: Tensor
    object_ids: Tensor
    image_ids: Tensor = field(init=False)
    num_foreground: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        images = [
            self.weights.new_full((count,), image, dtype=torch.long)
            for image, count in enumerate(self.samples_per_image)
        ]
        self.image_ids = torch.cat(images) if images else self.weights.new_zeros(0).long()

    def __len__(self) -> int:
        return sum(self.samples_per_image)

    @cached_property
    def everything(self) -> Tensor:
        """(N,) indices of all samples. A sampler that picks all returns this very tensor."""
        return torch.arange(len(self), device=self.weights.device)

    @abstractmethod
    def student_logits(self, index: Tensor) -> Tensor:
        """(S, C) logits of the student at the (S,) samples ``index``, attached to the graph."""

    @abstractmethod
    def teacher_logits(self, index: Tensor) -> Tensor:
        """(S, C) logits of the teacher at the (S,) samples ``index``, without gradient."""

    @abstractmethod
    def teacher_confidence(self) -> Tensor:
        """(N,) the teacher's highest foreground probability at each sample."""

    def teacher_top(self, k: int) -> Tensor:
        """(S,) the k samples of each image that the teacher is most confident of, ascending."""
        confidence = self.teacher_confidence()
        picked = []
        start = 0
        for count in self.samples_per_image:
            top = confidence[start : start + count].topk(min(k, count)).indices
            picked.append(start + top.sort().values)
            start += count
        return torch.cat(picked) if picked else confidence.new_zeros(0).long()

    def student_confidence(self, index: Tensor) -> Tensor:
        """(S,) the student's highest foreground probability at the (S,) samples ``index``, without gradient."""
        return self.highest_foreground(self.student_logits(index).detach())

    def boxes(self, index: Tensor) -> Tensor | None:
        """(S, 4) xyxy anchors or RoIs of the samples; None if the samples are points."""
        return None

    def cells(self, index: Tensor) -> Tensor | None:
        """(S, 3) level, row and column of the samples' cells; None for heads that are not dense."""
        return None

    def student_boxes(self, index: Tensor) -> Tensor:
        """(S, 4) xyxy boxes that the student predicts for the samples, in input pixels, attached to the graph.

        Raises:
            NotImplementedError: The head predicts none; its adapter's ``check_boxes`` says so before the first step.
        """
        raise NotImplementedError(f'{type(self).__name__} has no predicted boxes')

    def teacher_boxes(self, index: Tensor) -> Tensor:
        """(S, 4) xyxy boxes that the teacher predicts for the samples, in the student's input pixels, no gradient.

        Raises:
            NotImplementedError: As :meth:`student_boxes`.
        """
        raise NotImplementedError(f'{type(self).__name__} has no predicted boxes')

    def student_distributions(self, index: Tensor) -> Tensor | None:
        """(S, 4, bins) logits of the sides' distributions, attached; None for heads that predict none."""
        return None

    def teacher_distributions(self, index: Tensor) -> Tensor | None:
        """(S, 4, bins) the same of the teacher, without gradient."""
        return None

    def is_foreground(self) -> Tensor:
        """(N,) whether the student's assignment made a sample positive."""
        if self.labels is None:
            return torch.zeros(len(self), dtype=torch.bool, device=self.weights.device)
        return (self.labels >= 0) & (self.labels < self.num_classes) & (self.weights > 0)

    def foreground(self) -> Tensor:
        """(S,) indices of the positive samples, ascending. The host waits for the device only if it lacks their number.

        Raises:
            RuntimeError: :attr:`num_foreground` is wrong. On a GPU a device-side assertion fails instead.
        """
        positive = self.is_foreground()
        if self.num_foreground is None:
            return positive.nonzero().flatten()
        torch._assert_async(
            positive.sum() == self.num_foreground,
            'SampleTable.num_foreground is not the number of positives: a head adapter that overrides assignments() '
            'has to override num_foreground() as well',
        )
        nth = torch.arange(1, self.num_foreground + 1, device=positive.device)
        return torch.searchsorted(positive.cumsum(0), nth)

    def highest_foreground(self, logits: Tensor) -> Tensor:
        """(S,) the highest probability of a foreground class in each of (S, C) rows of logits."""
        if self.activation == 'sigmoid':
            return logits.amax(dim=-1).float().sigmoid()
        return logits.float().softmax(dim=-1)[..., : self.num_classes].amax(dim=-1)

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
            locate=lambda: self.boxes(index),
            locate_cells=lambda: self.cells(index),
            locate_predicted=lambda: self.teacher_boxes(index).detach(),
        )

    def box_pairs(self, sampler: Sampler, image_sizes: Tensor) -> BoxPairs:
        """The box pairs of the samples that ``sampler`` picks.

        Args:
            sampler: Picks the samples.
            image_sizes: (B, 2) width and height of the batch's images in pixels.
        """
        with torch.no_grad():
            index = sampler(self)
            teacher_confidence = (
                self.teacher_confidence()[index] if len(index) else self.weights[index]
            )
        teacher_distributions = self.teacher_distributions(index)
        return BoxPairs(
            student=self.student_boxes(index),
            teacher=self.teacher_boxes(index).detach(),
            student_confidence=self.student_confidence(index),
            teacher_confidence=teacher_confidence,
            image_sizes=image_sizes[self.image_ids[index]],
            labels=None if self.labels is None else self.labels[index],
            weights=self.weights[index],
            image_ids=self.image_ids[index],
            object_ids=self.object_ids[index],
            student_distributions=self.student_distributions(index),
            teacher_distributions=(
                None if teacher_distributions is None else teacher_distributions.detach()
            ),
        )


class Sampler(Protocol):
    """Picks samples of a table: a hashable callable, equal to any other that picks the same samples.

    Some attributes are optional:

    - ``teacher_top``: k, if only the k samples per image that the teacher is most confident of are picked, and perhaps
      positives. A stored teacher keeps no others.
    - ``positives``: whether the student's positives are picked, too.
    - ``shared_queries``: the number of random queries, if both networks answer the same queries.
    - ``matched_queries``: whether queries are paired by what they predict.
    """

    def __call__(self, table: SampleTable) -> Tensor:
        """(S,) indices of the picked samples, in ascending order."""
        ...
