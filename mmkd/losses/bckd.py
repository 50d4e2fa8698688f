"""BCKD on sigmoid heads with boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from mmkd.functional import bckd_box_loss
from mmkd.functional.processes import mean_over_processes
from mmkd.registry import LOSSES
from mmkd.structures import Boxes, Request, Sources, Step

from .base import DistillLoss, full_precision
from .box import comparable
from .qfl_kd import QFLKDLoss, mean_positives
from .samplers import AllSamples


@LOSSES.register_module()
class BCKDLoss(DistillLoss):
    """Scores as binary problems, and boxes by their overlap (BCKD, Yang et al., ICCV 2023), for dense sigmoid heads.

    Over all anchors, divided by the number of positives of all processes: :class:`QFLKDLoss` of the scores, and
    :func:`mmkd.functional.bckd_box_loss`, in which a box counts by how far the scores are apart. (The released code
    leaves out levels on which the batch has no positive.) A sample counts with its weight in the student's own loss; a
    pair with a box whose sides are in the wrong order, as RTMDet may predict one, has no part in the boxes.

    Args:
        beta: See :class:`QFLKDLoss`. Published: 1.
        box_weight: Weight of the boxes beside the scores. Published: 4.
        weight: See :class:`DistillLoss`. Published: 1.
        teacher: See :class:`DistillLoss`.

    Raises:
        ValueError: An option is out of its range, or (by :meth:`attach`) the head is a softmax head, or gives no boxes
            or no labels.
    """

    def __init__(
        self,
        beta: float = 1.0,
        box_weight: float = 4.0,
        weight: Any = 1.0,
        teacher: str = 'teacher',
    ) -> None:
        super().__init__(weight, teacher)
        if not (isinstance(box_weight, int | float) and box_weight >= 0):
            raise ValueError(f'BCKDLoss.box_weight: {box_weight!r} is not a number, 0 or more')
        self.box_weight = box_weight
        try:
            self.scores = QFLKDLoss(
                beta=beta, samples=dict(type='mmkd.AllSamples'), teacher=teacher
            )
        except ValueError as error:
            raise ValueError(str(error).replace('QFLKDLoss.', 'BCKDLoss.')) from None

    def requests(self) -> tuple[Request[Any], ...]:
        """Logits and boxes of all samples."""
        return (*self.scores.requests(), Boxes(self.teacher, samples=AllSamples()))

    @override
    def attach(self, sources: Sources) -> None:
        super().attach(sources)
        try:
            self.scores.attach(sources)
            sources.of(self.requests()[0]).check_boxes()
        except ValueError as error:
            raise ValueError(f'BCKDLoss: {error}') from None

    def forward(self, step: Step) -> Tensor:
        """Scores, and boxes with their weight."""
        logit_request, box_request = self.requests()
        tables = step.sources.of(logit_request).sample_tables(step)
        values = []
        for table, logits, boxes in zip(
            tables, step.ask(logit_request), step.ask(box_request), strict=True
        ):
            with full_precision(boxes.student):
                student, teacher, weights = comparable(boxes, boxes.weights)
                value = bckd_box_loss(
                    student, teacher, logits.student, logits.teacher, weights, avg_factor=1
                )
                values.append(value / mean_positives(table).clamp(min=1))
        boxes_value = mean_over_processes(torch.stack(values).mean())
        return self.scores(step) + self.box_weight * boxes_value
