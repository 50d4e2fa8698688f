"""Imitation of the teacher's boxes, on heads of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from mmkd.functional import box_giou_loss, box_l1_loss
from mmkd.registry import LOSSES
from mmkd.structures import BoxPairs

from .base import BoxLoss
from .schedules import Schedule


@LOSSES.register_module()
class BoxGIoULoss(BoxLoss):
    """1 - GIoU of the student's and the teacher's boxes, a mean weighted by the teacher's confidence.

    See :func:`mmkd.functional.box_giou_loss`. It has no unit: small objects count like large ones.

    A box whose right side is left of its left side has no area and no overlap. RoI and most dense heads cannot predict
    one; CenterNet and SABL can. A pair with such a box counts for nothing.
    """

    def compute(self, pairs: BoxPairs, weights: Tensor) -> Tensor:
        """See :func:`mmkd.functional.box_giou_loss`."""
        counts = weights > 0  # the others may give NaN, which no weight of 0 removes
        return box_giou_loss(pairs.student[counts], pairs.teacher[counts], weights[counts])

    def box_weights(self, pairs: BoxPairs) -> Tensor:
        """See :meth:`BoxLoss.box_weights`."""
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

    Raises:
        ValueError: ``unit`` is something else.
    """

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        unit: Literal['image', 'teacher'] = 'image',
        samples: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, samples)
        if unit not in ('image', 'teacher'):
            raise ValueError(f"BoxL1Loss.unit: {unit!r} is neither 'image' nor 'teacher'")
        self.unit = unit

    def compute(self, pairs: BoxPairs, weights: Tensor) -> Tensor:
        """See :func:`mmkd.functional.box_l1_loss`."""
        if self.unit == 'image':
            sizes = pairs.image_sizes
        else:
            sizes = (pairs.teacher[:, 2:] - pairs.teacher[:, :2]).clamp(min=1)
        scale = sizes.repeat(1, 2)
        return box_l1_loss(pairs.student / scale, pairs.teacher / scale, weights)


def _in_order(boxes: Tensor) -> Tensor:
    """(S,) whether a box's left side is left of its right one, and its top above its bottom; NaN is to be seen."""
    return ~(boxes[:, :2] > boxes[:, 2:]).any(dim=1)
