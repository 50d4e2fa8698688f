"""Losses that imitate the teacher's boxes, for any head that predicts boxes."""

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

    Boxes are weighted by the teacher's confidence times the sample's weight in the student's own classification loss.

    Args:
        weight: See :class:`DistillLoss`.
        samples: Config of a sampler. Default: ``mmkd.Positives``, as boxes of background are meaningless.
        teacher: See :class:`DistillLoss`.

    Raises:
        ValueError: (In :meth:`attach`) The heads predict no boxes that can be paired.
    """

    distributions: ClassVar[bool] = False
    """Whether the loss compares the distributions of the sides of a box."""

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
        """The scalar loss of one table, with (S,) ``weights`` of the boxes."""

    def box_weights(self, pairs: BoxPairs) -> Tensor:
        """(S,) the weight of every box."""
        return pairs.teacher_confidence * pairs.weights

    def averaged_by(self, pairs: BoxPairs) -> Tensor | None:
        """(S,) the weights with which :meth:`compute` averages over boxes; None if it does not average."""
        return self.box_weights(pairs)

    def _on(self, pairs: BoxPairs, step: Step) -> Tensor:
        with full_precision(pairs.student):
            value = self.compute(pairs, self.box_weights(pairs), step)
            weights = self.averaged_by(pairs)
            return value if weights is None else value * share(weights).to(value)


@LOSSES.register_module()
class BoxGIoULoss(BoxLoss):
    """1 - GIoU of the student's and the teacher's boxes, a mean weighted by the teacher's confidence.

    See :func:`mmkd.functional.box_giou_loss`. It does not depend on scale: small objects count as much as large ones.

    CenterNet, RTMDet and SABL can predict boxes whose right side is left of the left one. These have no area, and pairs
    with such a box are ignored.
    """

    @override
    def compute(self, pairs: BoxPairs, weights: Tensor, step: Step) -> Tensor:
        return box_giou_loss(*comparable(pairs, weights))

    @override
    def box_weights(self, pairs: BoxPairs) -> Tensor:
        return super().box_weights(pairs) * _both_in_order(pairs)


@LOSSES.register_module()
class BoxL1Loss(BoxLoss):
    """Distance of the corners of the student's and the teacher's boxes, a mean weighted by the teacher's confidence.

    See :func:`mmkd.functional.box_l1_loss`. Distances are summed over the four coordinates.

    Args:
        weight: Weight or schedule.
        unit: Unit of the distances. ``'image'`` (default): width and height of the image, as in DETR's own loss, whose
            weight of 5 then fits. ``'teacher'``: width and height of the teacher's box, at least one pixel, so that
            small objects count as much as large ones, as in the delta codes of anchor and RoI heads.
        samples: Config of a sampler; default ``mmkd.Positives``.
        teacher: See :class:`DistillLoss`.

    Raises:
        ValueError: ``unit`` is unknown.
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


def comparable(pairs: BoxPairs, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of which an overlap can be computed: one whose sides are in the wrong order has none.

    Args:
        pairs: The boxes.
        weights: (S,) how much every pair counts.

    Returns:
        (S, 4) boxes of student and teacher, and (S,) weights, 0 for pairs with such a box. What does not count is
        another box: it may give NaN, which no weight of 0 removes.
    """
    weights = weights * _both_in_order(pairs)
    other = torch.tensor([0.0, 0.0, 1.0, 1.0]).to(pairs.student, non_blocking=True)
    student, teacher = (
        torch.where(weights[:, None] > 0, boxes, other) for boxes in (pairs.student, pairs.teacher)
    )
    return student, teacher, weights


def _both_in_order(pairs: BoxPairs) -> Tensor:
    return _in_order(pairs.student.detach()) & _in_order(pairs.teacher)


def _in_order(boxes: Tensor) -> Tensor:
    """(S,) whether a box's sides are in order. NaN counts as in order, so that it shows in the loss."""
    return ~(boxes[:, :2] > boxes[:, 2:]).any(dim=1)
