"""DeFeat: features of objects and background with weights of their own.

Guo et al.: "Distilling Object Detectors via Decoupled Features", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._common import check_not_negative
from ._regions import FINEST_SCALE, paint_boxes
from .feature import prepare_levels
from .processes import sum_over_processes, world_size


def defeat_loss(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    strides: Sequence[float],
    objects: float = 3.0,
    background: float = 12.0,
    gather: bool = False,
) -> Tensor:
    r"""Imitate the teacher's maps within objects and outside of them, each by a mean of its own.

    .. math:: \frac{1}{L} \sum_l \frac{1}{2 C_l} \sum_{bhw} \Big( \frac{\alpha}{N_l} M_{lbhw}
        + \frac{\beta}{\bar N_l} (1 - M_{lbhw}) \Big) \sum_c (S_{lbchw} - T_{lbchw})^2,
        \quad N_l = \sum M_l, \; \bar N_l = \sum (1 - M_l)

    M is 1 within the objects of the level. As in the released code an object is of one level only, by FPN's rule: with
    56 px of its side for a first stride of 4, twice as much for one of 8; and at least one cell. Elsewhere it is
    background.

    Args:
        student_features: One map of shape (B, C, H, W) per level.
        teacher_features: As many maps, level by level of the student's shape. Get no gradient.
        boxes: Shape (G, 4): xyxy boxes of the objects of all images, in pixels.
        images: Shape (G,): the index of the image that an object is in.
        strides: Pixels per cell of every level, ascending.
        objects: :math:`\alpha`. Published: 3 (Faster R-CNN, VOC).
        background: :math:`\beta`. Published: 12.
        gather: The maps of all processes (of the default process group) are one batch; all of them have to call this.

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph. With ``gather`` the mean of
        the processes' values is the loss of the whole batch, and the mean of their gradients its gradient.

    Raises:
        ValueError: For features that are not two sequences of as many (B, C, H, W) maps, one at least, of the same
            shapes, and weights below 0.
    """
    levels = prepare_levels(student_features, teacher_features)
    check_not_negative(objects=objects, background=background)
    masks = object_masks(boxes, images, [student[:, 0] for student, _ in levels], strides)
    counts = torch.stack([torch.stack([mask.sum(), (1 - mask).sum()]) for mask in masks])
    processes = world_size() if gather else 1
    counts = (sum_over_processes(counts) if gather else counts).clamp(min=1)
    losses = []
    for (student, teacher), mask, (inside, outside) in zip(levels, masks, counts, strict=True):
        weights = objects / inside * mask + background / outside * (1 - mask)
        squares = (student - teacher).square().sum(1) * weights
        losses.append(squares.sum() / (2 * student.shape[1]))
    return torch.stack(losses).mean() * processes


@torch.no_grad()
def object_masks(
    boxes: Tensor, images: Tensor, like: Sequence[Tensor], strides: Sequence[float]
) -> list[Tensor]:
    """The masks M of :func:`defeat_loss`.

    Args:
        boxes: See :func:`defeat_loss`.
        images: Likewise.
        like: Per level, shape (B, H, W) and type.
        strides: Likewise.

    Returns:
        Per level (B, H, W), 1 within the objects of this level and 0 elsewhere.
    """
    boxes = boxes.to(like[0].dtype)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    own_level = (sides / (FINEST_SCALE * strides[0]) + 1e-6).log2().floor()
    own_level = own_level.clamp(0, len(like) - 1)
    masks = []
    for number, (level, stride) in enumerate(zip(like, strides, strict=True)):
        first, end = (boxes / stride).floor().long().split(2, dim=1)
        cells = torch.cat([first, torch.maximum(first, end - 1)], dim=1)
        batch, height, width = level.shape
        is_own = (own_level == number).to(level.dtype)
        masks.append(paint_boxes(cells, images, is_own, (batch, height, width)))
    return masks
