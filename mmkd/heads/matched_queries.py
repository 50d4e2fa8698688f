"""Queries of both networks that predict the most alike (DETRDistill)."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn
from typing_extensions import override

from mmkd.structures import ClassMap, Holding, Request, SampleTable, Step

from .base import DerivedAdapter, HeadAdapter
from .query import DETRHeadAdapter, Matches, QueryTable, head_of_another_kind


class MatchedQueryAdapter(DerivedAdapter):
    """Pairs the teacher's queries with the student's by what they predict (DETRDistill, ICCV 2023).

    The student's own assigner matches its predictions with the teacher's, which stand in for objects: each with the
    class that it is most sure of, and its box. As many pairs come of it as the network with fewer queries has. A pair
    whose teacher's query was matched with an object by the teacher's own assigner is positive, with the object's class
    as its label; the others are background. All weights are 1.

    Args:
        own: The adapter of the pair.
        student: The student.
        teacher: The teacher's network.

    Raises:
        ValueError: The pair is none of DETR's kin.
    """

    own: DETRHeadAdapter

    def __init__(self, own: HeadAdapter, student: nn.Module, teacher: nn.Module) -> None:
        if not isinstance(own, DETRHeadAdapter):
            kind = type(head_of_another_kind(own)).__name__
            raise ValueError(
                f'samples=mmkd.MatchedQueries: {kind} has no assigner that could match queries with queries: only '
                'DETR and its kin have: use another sampler'
            )
        super().__init__(student, teacher, own.path)
        self.own = own
        self.taps = own.taps

    @override
    def to_store(self, request: Request[Any]) -> Holding:
        return self.own.to_store(request)

    def tables(self, step: Step) -> list[SampleTable]:
        """One table per wanted decoder layer."""
        teacher = self.teacher_pass(step)
        predicted = teacher.outputs(
            lambda model, features: self.own.teacher_predictions(
                model, features, step.data_samples
            ),
            lambda images: self.own.stored_predictions(images, step),
        )
        layers = zip(self.own.student_predictions(step), predicted, strict=True)
        return [self._table(ours, theirs, step, teacher.classes) for ours, theirs in layers]

    def _table(
        self, ours: list[Any], theirs: list[Any], step: Step, classes: ClassMap
    ) -> QueryTable:
        pairs = [
            self._pair(student, teacher, sample, classes)
            for student, teacher, sample in zip(ours, theirs, step.data_samples, strict=True)
        ]
        students, teachers = zip(*pairs, strict=True)
        student_rows = torch.cat([each.logits for each in students])
        return QueryTable(
            activation=self.activation,
            num_classes=self.num_classes,
            samples_per_image=[len(each.logits) for each in students],
            labels=torch.cat([each.labels for each in students]),
            weights=student_rows.new_ones(len(student_rows)),
            object_ids=torch.cat([each.object_ids for each in students]),
            student_rows=student_rows,
            teacher_rows=torch.cat([each.logits for each in teachers]),
            student_box_rows=torch.cat([each.boxes for each in students]),
            teacher_box_rows=torch.cat([each.boxes for each in teachers]),
        )

    def _pair(
        self, ours: Any, theirs: Any, sample: Any, classes: ClassMap
    ) -> tuple[Matches, Matches]:
        """The paired queries of one image, of student and teacher."""
        _, assignment = self.own.assign_to_teacher(theirs, sample, classes)
        logits = classes.logits(theirs.scores)
        best = logits[:, : self.num_classes].argmax(dim=1)
        matched = self.student_head.assigner.assign(
            # Matching costs need float32's range, which autocast does not give them.
            pred_instances=InstanceData(scores=ours.scores.float(), bboxes=ours.bboxes.float()),
            gt_instances=InstanceData(bboxes=theirs.bboxes, labels=best),
            img_meta=sample.metainfo,
        )
        student = (matched.gt_inds > 0).nonzero().flatten()
        teacher = matched.gt_inds[student] - 1
        objects = assignment.gt_inds[teacher] - 1
        labels = _labels(sample.gt_instances.labels, objects, self.num_classes)
        return (
            Matches(ours.scores[student], ours.bboxes[student], labels, objects),
            Matches(logits[teacher], theirs.bboxes[teacher], labels, objects),
        )


def _labels(labels: Tensor, objects: Tensor, background: int) -> Tensor:
    """The classes of objects, of which -1 is none."""
    padded = torch.cat([labels, labels.new_full((1,), background)])  # where -1 finds the background
    return padded[objects]
