"""Steps of given boxes, for the tests of the losses on boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from mmkd.heads import HeadAdapter
from mmkd.structures import TEACHER, SampleTable, Sources, Step, head_source

IMAGES = ((60, 100), (80, 50))
"""Height and width of the two images."""


@dataclass
class BoxTable(SampleTable):
    """A table whose boxes, confidences and distributions are there already."""

    student: Tensor = field(kw_only=True)
    teacher: Tensor = field(kw_only=True)
    ours: Tensor = field(kw_only=True)
    theirs: Tensor = field(kw_only=True)
    student_bins: Tensor = field(kw_only=True)
    teacher_bins: Tensor = field(kw_only=True)

    def student_logits(self, index: Tensor) -> Tensor:
        return self.ours[index, None].logit()

    def teacher_logits(self, index: Tensor) -> Tensor:
        return self.theirs[index, None].logit()

    def teacher_confidence(self) -> Tensor:
        return self.theirs

    def student_boxes(self, index: Tensor) -> Tensor:
        return self.student[index]

    def teacher_boxes(self, index: Tensor) -> Tensor:
        return self.teacher[index]

    def student_distributions(self, index: Tensor) -> Tensor:
        return self.student_bins[index]

    def teacher_distributions(self, index: Tensor) -> Tensor:
        return self.teacher_bins[index]


@dataclass(eq=False)
class GivenHead(HeadAdapter):
    """A head of the given tables."""

    given: list[BoxTable]

    def tables(self, step: Step) -> list[Any]:
        return self.given


def make_table(seed: int = 0, **other: Any) -> BoxTable:
    """12 samples of 2 images, of which 6 are positive, one with twice the weight; everything in float64."""
    noise = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=noise, dtype=torch.float64)

    def draw_boxes() -> Tensor:
        corner = 40 * draw(12, 2)
        return torch.cat([corner, corner + 1 + 20 * draw(12, 2)], dim=1)

    weights = torch.ones(12, dtype=torch.float64)
    weights[2] = 2
    options: dict[str, Any] = dict(
        student=draw_boxes().requires_grad_(),
        teacher=draw_boxes().requires_grad_(),
        ours=draw(12),
        theirs=draw(12),
        student_bins=(4 * draw(12, 4, 5)).requires_grad_(),
        teacher_bins=(4 * draw(12, 4, 5)).requires_grad_(),
        labels=torch.tensor([0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]),
        weights=weights,
        object_ids=torch.full((12,), -1),
    )
    return BoxTable('sigmoid', 1, [5, 7], **(options | other))


def step_of(*tables: BoxTable) -> Step:
    """A step whose head gives these tables."""
    samples = [DetDataSample(metainfo=dict(img_shape=shape)) for shape in IMAGES]
    sources = Sources({head_source(TEACHER): GivenHead(list(tables))})
    return Step(torch.zeros(0), samples, {}, sources)


POSITIVES = [0, 2, 3, 6, 7, 11]
"""The positive samples of a table, of class 0."""
