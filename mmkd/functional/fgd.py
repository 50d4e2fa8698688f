"""FGD: features of objects and background apart, where the teacher looks, and their global relations.

Yang et al.: "Focal and Global Knowledge Distillation for Detectors", CVPR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import check_not_negative, check_positive, prepare_pair
from ._regions import paint_boxes
from .rows import at_least_float32


def fgd_loss(
    student: Tensor,
    teacher: Tensor,
    boxes: Tensor,
    images: Tensor,
    stride: float,
    student_context: Tensor | None = None,
    teacher_context: Tensor | None = None,
    temperature: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 5e-4,
    relation: float = 5e-6,
) -> Tensor:
    r"""Focal and global distillation of the maps of one level.

    .. math:: \frac{1}{B} \sum_b \Big[ \sum_{chw} (\alpha M_{hw} + \beta \bar M_{hw}) \, A^S_{hw}(T) \, A^C_c(T) \,
        (S_{chw} - T_{chw})^2 + \gamma \big( |A^S(S) - A^S(T)|_1 + |A^C(S) - A^C(T)|_1 \big)
        + \lambda \, \| R(S) - R(T) \|^2 \Big]

    With n = H W, the attentions are :math:`A^S(F) = n \, \mathrm{softmax}_{hw}(\mathrm{mean}_c |F| / \tau)` and
    :math:`A^C(F) = C \, \mathrm{softmax}_c(\mathrm{mean}_{hw} |F| / \tau)`. M is 1 / (h w) within an object of h x w
    cells, of overlapping objects the largest, and 0 elsewhere; :math:`\bar M` is 1 / (number of cells without an
    object) on these. R are the maps with their global context, which the caller makes by trained blocks.

    As in the released code, an object covers the cells from the floor of its first corner to the ceiling of its second
    one, both inside. Its cells are found by the stride (there, by the share of the image's size, which is another cell
    in images that are padded; and its mask has height and width the wrong way round).

    Args:
        student: Map of shape (B, C, H, W).
        teacher: Map of the same shape. Gets no gradient.
        boxes: Shape (G, 4): xyxy boxes of the objects of all images, in pixels.
        images: Shape (G,): the index of the image that an object is in.
        stride: Pixels per cell.
        student_context: R(S) of the map's shape, or None, which leaves the relation out.
        teacher_context: R(T), with the gradient of what made it.
        temperature: :math:`\tau`, positive.
        alpha: Weight of the objects. Published for one-stage detectors with anchors: the defaults.
        beta: Weight of the background.
        gamma: Weight of the attentions.
        relation: :math:`\lambda`, the weight of the global relations.

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For maps that are not two (B, C, H, W) tensors of one shape, a temperature that is not positive, and
            weights below 0.
    """
    student, teacher = prepare_pair(student, teacher, ('B', 'C', 'H', 'W'), name='features')
    check_positive('temperature', temperature)
    check_not_negative(alpha=alpha, beta=beta, gamma=gamma, relation=relation)
    student_space, student_channel = _attentions(student, temperature)
    teacher_space, teacher_channel = _attentions(teacher, temperature)
    objects, background = fgd_masks(boxes, images, stride, student[:, 0])

    squares = ((student - teacher).square() * teacher_channel[:, :, None, None]).sum(1)
    loss = (squares * teacher_space * (alpha * objects + beta * background)).sum()
    differences = (student_space - teacher_space, student_channel - teacher_channel)
    loss = loss + gamma * sum(each.abs().sum() for each in differences)
    if student_context is not None and teacher_context is not None:
        contexts = at_least_float32(student_context) - at_least_float32(teacher_context)
        loss = loss + relation * contexts.square().sum()
    return loss / max(len(student), 1)


@torch.no_grad()
def fgd_masks(boxes: Tensor, images: Tensor, stride: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """The masks of objects and background of :func:`fgd_loss`.

    Args:
        boxes: See :func:`fgd_loss`.
        images: Likewise.
        stride: Likewise.
        like: Shape (B, H, W), and type.

    Returns:
        Two masks (B, H, W).
    """
    corners = boxes / stride
    cells = torch.cat([corners[:, :2].floor(), corners[:, 2:].ceil()], dim=1).long()
    areas = (cells[:, 2:] - cells[:, :2] + 1).clamp(min=1).prod(dim=1)
    batch, height, width = like.shape
    objects = paint_boxes(cells, images, 1 / areas.to(like.dtype), (batch, height, width))
    background = (objects == 0).to(like.dtype)
    return objects, background / background.sum((1, 2), keepdim=True).clamp(min=1)


def _attentions(features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(B, H, W) over space and (B, C) over channels, each with a mean of 1."""
    _, channels, height, width = features.shape
    sizes = features.abs()
    space = (sizes.mean(1) / temperature).flatten(1).softmax(1).view_as(features[:, 0])
    channel = (sizes.mean((2, 3)) / temperature).softmax(1)
    return height * width * space, channels * channel
