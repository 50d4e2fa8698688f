"""A two-stage teacher for a student with any other head: its RoI head scores the boxes that the student predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from mmkd.structures import SampleTable, Step

from .base import DerivedAdapter, HeadAdapter, adapter_class
from .roi import RoIHeadAdapter, RoIScores

_MOST_ROIS = 2048
"""RoIs that the teacher scores at once: 100 MiB of features of 256 channels and 7 x 7 cells."""


@dataclass
class ScoredBoxes(SampleTable):
    """Some of a student's samples, with the teacher's scores for the boxes that the student predicts there.

    Attributes:
        table: The student's own samples, whose teacher is never asked.
        places: (N,) indices of these samples in ``table``.
        rois: (N, 5) index of the image, and box in input pixels.
        score: Computes the teacher's (S, C) logits at (S, 5) RoIs.
    """

    table: SampleTable
    places: Tensor
    rois: Tensor
    score: Callable[[Tensor], Tensor]

    @cached_property
    def teacher_rows(self) -> Tensor:
        """(N, C) logits of the teacher at all boxes, cached for other samplers."""
        return self._score(self.rois)

    @override
    def student_logits(self, index: Tensor) -> Tensor:
        return self.table.student_logits(self.places[index])

    @override
    def teacher_logits(self, index: Tensor) -> Tensor:
        """Computed for the samples asked for only, unless all are known."""
        if not len(index):
            return self.student_logits(index).detach()
        if 'teacher_rows' in self.__dict__ or len(index) == len(self):
            return self.teacher_rows[index]
        return self._score(self.rois[index])

    @override
    def teacher_confidence(self) -> Tensor:
        return self.highest_foreground(self.teacher_rows) if len(self) else self.weights

    def boxes(self, index: Tensor) -> Tensor:
        """(S, 4) the boxes that the teacher scores."""
        return self.rois[index, 1:]

    def _score(self, rois: Tensor) -> Tensor:
        return torch.cat([self.score(some) for some in rois.split(_MOST_ROIS)])


class RoITeacherAdapter(DerivedAdapter):
    """A student whose head predicts boxes, dense or of queries, with a two-stage teacher.

    Labels, weights, objects and the student's logits come from the adapter of the student's own head. The teacher's
    logits are the scores of its RoI head for the box that the student predicts at a sample; its RPN does not run. In a
    cascade, every stage scores the box, and the logits are averaged.

    A two-stage teacher has a softmax over classes and background. For a sigmoid student its logits are converted to the
    log-odds of each class, ``log p_c - log(1 - p_c)``, whose sigmoid is p_c. A softmax student with background has the
    same columns as the teacher.

    A RoI head cannot score each of 100,000 anchors. The samples are the student's positives and, of each image, the
    ``candidates`` that the student itself is most confident of. Samplers choose among these.

    Samples whose box has no area within the image are left out, as an RPN would not propose such boxes. Early in
    training, heads that regress sides freely (RTMDet, CenterNet) predict them in the wrong order; heads that clip
    distances at 0 (FCOS, CenterNet2's) predict boxes of no width or height; others lie outside of the image.

    Args:
        student: See :class:`HeadAdapter`.
        teacher: A detector with a ``roi_head``.
        path: Attribute of the student's head.
        family: Adapter class of the student's head.
        candidates: Number of samples per image that the student is most confident of; all if there are fewer.
        options: Options of ``family``.

    Raises:
        ValueError: The student predicts no boxes, the teacher's scores are not supported, or ``candidates`` is not a
            number of samples.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        path: str,
        family: type[HeadAdapter],
        *,
        candidates: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, path, 'roi_head')
        if not (isinstance(candidates, int) and candidates >= 1):
            raise ValueError(
                f'model.head.candidates: {candidates!r} is not a number of samples per image: give a whole number, 1 '
                'or more'
            )
        # An adapter compares two heads. Here only its student side is used, so the student is also its teacher.
        self.own = family(student, student, path, **options)
        self.own.check_boxes()
        self.taps = self.own.taps
        self.scores = RoIScores(teacher, self.own.activation)
        self.candidates = candidates

    @property
    @override
    def num_teacher_classes(self) -> int:
        return self.scores.num_classes

    @override
    def learn_from(self, teacher: str) -> None:
        super().learn_from(teacher)
        self.own.learn_from(teacher)

    @override
    def class_map_levels(self) -> list[tuple[int, int]]:
        raise ValueError(
            f'the teacher scores the boxes of the {type(self.student_head).__name__} and has no class maps: use a loss '
            "on logits, or maps of the neck, at='neck'"
        )

    def check_boxes(self, distributions: bool = False) -> None:
        """Raise an error: the teacher has no boxes of its own here."""
        raise ValueError(
            f'the teacher scores the boxes of the {type(self.student_head).__name__} and predicts none of its own '
            'for them: use a loss on logits or features'
        )

    def tables(self, step: Step) -> list[SampleTable]:
        """The tables of the student's own head, reduced to the candidates."""
        scorer = self.scores.on(self.teacher_pass(step))
        tables: list[SampleTable] = []
        for table in self.own.student_tables(step):
            places = _candidates(table, self.candidates)
            rois = _rois(table, places, step.image_sizes)
            has_area = (rois[:, 1:3] < rois[:, 3:5]).all(dim=1)
            places, rois = places[has_area], rois[has_area]
            foreground = table.is_foreground()[places].sum()
            per_image = table.image_ids[places].bincount(minlength=len(step.inputs))
            *counts, positives = torch.cat([per_image, foreground[None]]).tolist()
            tables.append(
                ScoredBoxes(
                    activation=table.activation,
                    num_classes=table.num_classes,
                    samples_per_image=counts,
                    labels=None if table.labels is None else table.labels[places],
                    weights=table.weights[places],
                    object_ids=table.object_ids[places],
                    num_foreground=positives,
                    table=table,
                    places=places,
                    rois=rois,
                    score=scorer.logits,
                )
            )
        return tables


def is_two_stage(detector: nn.Module) -> bool:
    """Whether a detector has a RoI head that can score any boxes."""
    roi_head: Any = getattr(detector, 'roi_head', None)
    found = None if roi_head is None else adapter_class(roi_head)
    return found is not None and issubclass(found, RoIHeadAdapter)


@torch.no_grad()
def _candidates(table: SampleTable, most: int) -> Tensor:
    """(S,) the positives and the ``most`` of each image that the student is most confident of, ascending."""
    chosen = table.is_foreground()
    start = 0
    for count in table.samples_per_image:
        index = torch.arange(start, start + count, device=chosen.device)
        if count > most:
            index = index[table.student_confidence(index).topk(most).indices]
        chosen[index] = True
        start += count
    return chosen.nonzero().flatten()


@torch.no_grad()
def _rois(table: SampleTable, places: Tensor, image_sizes: Tensor) -> Tensor:
    """(S, 5) index of the image, and box in input pixels, clipped to the image as a two-stage detector's are.

    Args:
        table: A student's samples.
        places: (S,) indices of some of them.
        image_sizes: (B, 2) width and height of the images in pixels.
    """
    boxes = table.student_boxes(places).float()
    images = table.image_ids[places]
    limits = image_sizes[images].repeat(1, 2).to(boxes)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    return torch.cat([images[:, None].to(boxes), boxes], dim=1)
