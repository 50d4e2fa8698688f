"""Imitation of the teacher's boxes, on heads of any kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from mmkd.functional import box_giou_loss, box_l1_loss
from mmkd.functional.processes import mean_over_processes
from mmkd.registry import LOSSES, SAMPLERS, build
from mmkd.structures import TEACHER, Boxes, BoxPairs, Sources, Step

from .base import DistillLoss, full_precision, share
from .samplers import Positives
from .schedules import Schedule


class BoxLoss(DistillLoss, ABC):
    """A loss on aligned predicted boxes.

    A box counts with the teacher's confidence times the sample's weight in the student's own classification loss.

    Args:
        weight: See :class:`DistillLoss`.
        samples: Config of a sampler; default ``mmkd.Positives``: boxes of the background mean nothing.
        teacher: See :class:`DistillLoss`.

    Raises:
        ValueError: (By :meth:`attach`) the heads give no pairs of boxes.
    """

    distributions: ClassVar[bool] = False
    """The loss compares the distributions of the sides of a box."""

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        samples: Mapping[str, Any] | None = None,
        teacher: str = TEACHER,
    ) -> None:
        super().__init__(weight, teacher)
        where = f'{type(self).__name__}.samples'
        self.crossed: int | None = None
        self.sampler = Positives() if samples is None else build(SAMPLERS, samples, where)

    def requests(self) -> tuple[Boxes]:
        """The boxes at the samples that the sampler picks."""
        return (Boxes(self.teacher, self.crossed, samples=self.sampler),)

    @override
    def attach(self, sources: Sources) -> None:
        super().attach(sources)
        try:
            sources.of(self.requests()[0]).check_boxes(self.distributions)
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}: {error}') from None

    def forward(self, step: Step) -> Tensor:
        """Mean over the head's sample tables (stages of a cascade, layers of a decoder)."""
        values = [self._on(pairs, step) for pairs in step.ask(self.requests()[0])]
        return mean_over_processes(torch.stack(values).mean())

    @abstractmethod
    def compute(self, pairs: BoxPairs, weights: Tensor, step: Step) -> Tensor:
        """The scalar loss of one table, of boxes that count with (S,) ``weights``."""

    def box_weights(self, pairs: BoxPairs) -> Tensor:
        """(S,) how much every box counts."""
        return pairs.teacher_confidence * pairs.weights

    def averaged_by(self, pairs: BoxPairs) -> Tensor | None:
        """(S,) weights by which :meth:`compute` averages over boxes; None where it sums."""
        return self.box_weights(pairs)

    def _on(self, pairs: BoxPairs, step: Step) -> Tensor:
        with full_precision(pairs.student):
            value = self.compute(pairs, self.box_weights(pairs), step)
            weights = self.averaged_by(pairs)
            return value if weights is None else value * share(weights).to(value)


@LOSSES.register_module()
class BoxGIoULoss(BoxLoss):
    """1 - GIoU of the student's and the teacher's boxes, a mean weighted by the teacher's confidence.

    See :func:`mmkd.functional.box_giou_loss`. It has no unit: small objects count like large ones.

    A box whose right side is left of its left side has no area and no overlap. RoI and most dense heads cannot predict
    one; CenterNet, RTMDet and SABL can. A pair with such a box counts for nothing.
    """

    @override
    def compute(self, pairs: BoxPairs, weights: Tensor, step: Step) -> Tensor:
        # Boxes that do not count may give NaN, which no weight of 0 removes.
        counts = weights[:, None] > 0
        other = torch.tensor([0.0, 0.0, 1.0, 1.0]).to(pairs.student, non_blocking=True)
        student, teacher = (
            torch.where(counts, boxes, other) for boxes in (pairs.student, pairs.teacher)
        )
        return box_giou_loss(student, teacher, weights)

    @override
    def box_weights(self, pairs: BoxPairs) -> Tensor:
        in_order = _in_order(pairs.student.detach()) & _in_order(pairs.teacher)
        return super().box_weights(pairs) * in_order


@LOSSES.register_module()
class BoxL1Loss(BoxLoss):
    """Distance of the corners of the student's and the teacher's boxes, a mean weighted by the teacher's confidence.

    See :func:`mmkd.functional.box_l1_loss`. Distances are summed over the four coordinates.

    Args:
        weight: Weight or schedule.
        unit: What a coordinate is divided by. ``'image'`` (default): width and height of the image, as DETR does
            for its own loss, whose weight of 5 then fits. ``'teacher'``: width and height of the teacher's box, at
            least one pixel, so that small objects count like large ones, as in the delta codes of anchor and RoI heads.
        samples: Config of a sampler; default ``mmkd.Positives``.
        teacher: See :class:`DistillLoss`.

    Raises:
        ValueError: ``unit`` is something else.
    """

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        unit: Literal['image', 'teacher'] = 'image',
        samples: Mapping[str, Any] | None = None,
        teacher: str = TEACHER,
    ) -> None:
        super().__init__(weight, samples, teacher)
        if unit not in ('image', 'teacher'):
            raise ValueError(f"BoxL1Loss.unit: {unit!r} is neither 'image' nor 'teacher'")
        self.unit = unit

    @override
    def compute(self, pairs: BoxPairs, weights: Tensor, step: Step) -> Tensor:
        if self.unit == 'image':
            sizes = pairs.image_sizes
        else:
            sizes = (pairs.teacher[:, 2:] - pairs.teacher[:, :2]).clamp(min=1)
        scale = sizes.repeat(1, 2)
        return box_l1_loss(pairs.student / scale, pairs.teacher / scale, weights)


def _in_order(boxes: Tensor) -> Tensor:
    """(S,) whether a box's left side is left of its right one, and its top above its bottom; NaN is to be seen."""
    return ~(boxes[:, :2] > boxes[:, 2:]).any(dim=1)
