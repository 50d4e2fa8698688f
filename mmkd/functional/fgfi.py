"""FGFI: features of the cells near objects.

Wang, Yuan, Zhang, Feng: "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._common import check_positive
from ._regions import paint_rows
from .feature import prepare_levels
from .processes import sum_over_processes, world_size


def fgfi_loss(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    strides: Sequence[float],
    threshold: float = 0.5,
    anchor_scales: Sequence[float] = (8.0,),
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    gather: bool = False,
) -> Tensor:
    r"""Imitate the teacher at the cells whose anchors overlap an object nearly as much as the best one does.

    .. math:: \frac{1}{2 N} \sum_l \sum_{b h w} I_{lbhw} \sum_c (S_{lbchw} - T_{lbchw})^2, \quad N = \sum I

    A cell is near an object, I = 1, if the IoU of one of its anchors with the object is above :math:`\psi` times the
    highest IoU that any anchor has with it. Published for one map; that the highest IoU and N are those of all levels
    together, so that an object is imitated where it is detected, is ours. So are the anchors: around the middle of
    every cell, with the sizes and ratios of FPN's RPN, whatever those of the detector are; it may have none.

    Args:
        student_features: One map of shape (B, C, H, W) per level.
        teacher_features: As many maps, level by level of the student's shape. Get no gradient.
        boxes: Shape (G, 4): xyxy boxes of the objects of all images, in pixels.
        images: Shape (G,): the index of the image that an object is in.
        strides: Pixels per cell of every level.
        threshold: :math:`\psi`, positive and less than 1. Published: 0.5, with a weight of 0.01 for the loss.
        anchor_scales: Sides of a square anchor, in cells.
        anchor_ratios: Heights by widths of the anchors, which have the area of the square one.
        gather: The maps of all processes (of the default process group) are one batch; all of them have to call this.

    Returns:
        A scalar, float32 or wider. Without objects a zero that is still attached to the graph. With ``gather`` the mean
        of the processes' values is the loss of the whole batch, and the mean of their gradients its gradient.

    Raises:
        ValueError: For features that are not two sequences of as many (B, C, H, W) maps, one at least, of the same
            shapes, and a threshold, scale or ratio out of its range.
    """
    levels = prepare_levels(student_features, teacher_features)
    check_positive('threshold', threshold)
    if threshold >= 1:
        raise ValueError(
            f'threshold: {threshold!r} of the highest IoU, which no anchor exceeds: give less than 1'
        )
    for name, sizes in (('anchor_scales', anchor_scales), ('anchor_ratios', anchor_ratios)):
        for size in sizes:
            check_positive(name, size)
    masks = near_objects(
        boxes,
        images,
        [student[:, 0] for student, _ in levels],
        strides,
        threshold,
        anchor_scales,
        anchor_ratios,
    )
    total = torch.stack(
        [
            ((student - teacher).square().sum(1) * near).sum()
            for (student, teacher), near in zip(levels, masks, strict=True)
        ]
    ).sum()
    count = torch.stack([near.sum() for near in masks]).sum()
    if gather:
        total, count = total * world_size(), sum_over_processes(count)
    return total / (2 * count.clamp(min=1))


@torch.no_grad()
def near_objects(
    boxes: Tensor,
    images: Tensor,
    like: Sequence[Tensor],
    strides: Sequence[float],
    threshold: float,
    anchor_scales: Sequence[float],
    anchor_ratios: Sequence[float],
) -> list[Tensor]:
    """The masks I of :func:`fgfi_loss`, which has the arguments.

    An anchor overlaps a box by a width, which depends on its column, times a height, which depends on its row: the
    highest overlap is the product of the largest two, and in a row the anchors with a high IoU are an interval.

    Args:
        boxes: See :func:`fgfi_loss`.
        images: Likewise.
        like: Per level, shape (B, H, W) and type.
        strides: Likewise.
        threshold: Likewise.
        anchor_scales: Likewise.
        anchor_ratios: Likewise.

    Returns:
        Per level (B, H, W), 1 near an object and 0 elsewhere.
    """
    boxes = boxes.to(like[0].dtype)
    grid = [(scale, ratio) for scale in anchor_scales for ratio in anchor_ratios]
    sizes = torch.tensor([(scale * ratio**-0.5, scale * ratio**0.5) for scale, ratio in grid])
    sides = sizes.to(boxes, non_blocking=True)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]
    overlaps, unions, best = [], [], boxes.new_zeros(len(boxes))
    for level, stride in zip(like, strides, strict=True):
        along = [
            _overlap(boxes[:, axis], boxes[:, 2 + axis], stride * sides[:, axis], size, stride)
            for axis, size in ((0, level.shape[2]), (1, level.shape[1]))
        ]
        highest = along[0].amax(2) * along[1].amax(2)
        both = areas + stride**2 * sides.prod(1)
        best = torch.maximum(best, (highest / (both - highest)).amax(1))
        overlaps.append(along[1])
        unions.append(both)

    masks = []
    wanted = (threshold * best)[:, None]
    for level, stride, height, both in zip(like, strides, overlaps, unions, strict=True):
        batch, rows, columns = level.shape
        shared = wanted / (1 + wanted) * both  # by which an anchor has to overlap
        width = shared[:, :, None] / height  # in a row, infinite where there is no overlap
        left, right = boxes[:, None, None, 0], boxes[:, None, None, 2]
        half = stride * sides[None, :, None, 0] / 2
        # The column of an anchor whose middle is at x is x / stride - 1/2.
        first = ((left - half + width) / stride - 0.5).floor() + 1
        last = ((right + half - width) / stride - 0.5).ceil() - 1
        found = (width < torch.minimum(2 * half, right - left)) & (height > 0)
        row = torch.arange(rows, device=boxes.device)
        near = paint_rows(
            (images[:, None, None] * rows + row).expand_as(width).flatten(),
            first.where(found, 0).clamp(-1, columns).long().flatten(),
            last.where(found, -1).clamp(-1, columns).long().flatten(),
            found.to(level.dtype).flatten(),
            (batch * rows, columns),
        )
        masks.append(near.view(level.shape))
    return masks


def _overlap(start: Tensor, end: Tensor, sides: Tensor, size: int, stride: float) -> Tensor:
    """(G, A, size) by how much anchors of (A,) sides in the middle of cells overlap (G,) boxes along one axis."""
    middle = (torch.arange(size, device=start.device).to(start.dtype) + 0.5) * stride
    half = sides[:, None] / 2
    ends = torch.minimum(middle + half, end[:, None, None])
    return (ends - torch.maximum(middle - half, start[:, None, None])).clamp(min=0)
