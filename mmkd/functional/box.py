"""What the teacher knows of a box: the distributions of its sides, or its corners.

LD: Zheng et al.: "Localization Distillation for Dense Object Detection", CVPR 2022. GIoU:
Rezatofighi et al.: "Generalized Intersection over Union", CVPR 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import check_positive, prepare_pair, weighted_mean
from ._divergence import categorical_kl

_NO_AREA = 1e-7  # added to areas that divide


def ld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 10.0,
    weights: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Localisation distillation, for heads that predict each side of a box as a distribution.

    .. math:: \frac{\tau^2}{N} \sum_i \frac{w_i}{4} \sum_{e=1}^4
        KL(\mathrm{softmax}(t_{ie} / \tau) \,\|\, \mathrm{softmax}(s_{ie} / \tau))

    mmdet's LDHead averages over the bins where a divergence sums over them: its loss weight of
    0.25 is 0.25 / bins here.

    Args:
        student_logits: Shape (N, 4, bins).
        teacher_logits: Shape (N, 4, bins). Gets no gradient.
        temperature: :math:`\tau`, positive.
        weights: w, shape (N,), such as the largest class probability of each box, or None for 1.
        avg_factor: N, with 1 as the least. None is the sum of the weights, which makes this a
            weighted mean over the boxes.

    Returns:
        A scalar, float32 or wider. N = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (N, 4, bins) tensors of one shape, weights that
            are not N numbers, and a temperature that is not positive.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('N', 4, 'bins'))
    check_positive('temperature', temperature)
    divergences = categorical_kl(student / temperature, teacher / temperature).mean(1)
    return temperature**2 * weighted_mean(divergences, weights, avg_factor)


def box_l1_loss(
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    weights: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Imitate the teacher's boxes, by the distance of their coordinates.

    .. math:: \frac{1}{N} \sum_i w_i \sum_{k=1}^4 |s_{ik} - t_{ik}|

    Args:
        student_boxes: Shape (N, 4): corners (x1, y1, x2, y2), or any other code of four numbers.
            The loss has their unit: a weight chosen for normalised coordinates is no weight for
            pixels.
        teacher_boxes: Shape (N, 4), in the same code. Gets no gradient.
        weights: w, shape (N,), such as the teacher's confidence in each box, or None for 1.
        avg_factor: N, with 1 as the least. None is the sum of the weights, which makes this a
            weighted mean over the boxes.

    Returns:
        A scalar, float32 or wider. N = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For boxes that are not two (N, 4) matrices of one shape, and weights that are
            not N numbers.
    """
    student, teacher = prepare_pair(student_boxes, teacher_boxes, ('N', 4), name='boxes')
    return weighted_mean((student - teacher).abs().sum(1), weights, avg_factor)


def box_giou_loss(
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    weights: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Imitate the teacher's boxes, by their generalised overlap.

    .. math:: \frac{1}{N} \sum_i w_i \, (1 - GIoU(s_i, t_i))

    Args:
        student_boxes: Shape (N, 4): corners (x1, y1, x2, y2), x1 <= x2 and y1 <= y2.
        teacher_boxes: Shape (N, 4), in the same unit. Gets no gradient.
        weights: w, shape (N,), such as the teacher's confidence in each box, or None for 1.
        avg_factor: N, with 1 as the least. None is the sum of the weights, which makes this a
            weighted mean over the boxes, between 0 and 2.

    Returns:
        A scalar, float32 or wider. N = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For boxes that are not two (N, 4) matrices of one shape, and weights that are
            not N numbers.
    """
    student, teacher = prepare_pair(student_boxes, teacher_boxes, ('N', 4), name='boxes')
    return weighted_mean(1 - _generalized_overlap(student, teacher), weights, avg_factor)


def bckd_box_loss(
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    weights: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Imitate the teacher's boxes where the scores are far apart, the box term of BCKD.

    .. math:: \frac{1}{N} \sum_i w_i \, \max_c |\sigma(s_{ic}) - \sigma(t_{ic})| \, (1 - GIoU(b^S_i, b^T_i))

    The paper has the IoU, the released code the GIoU. The scores' distance has no gradient.

    Args:
        student_boxes: Shape (S, 4): corners (x1, y1, x2, y2), x1 <= x2 and y1 <= y2.
        teacher_boxes: Shape (S, 4), in the same unit. Gets no gradient.
        student_logits: Shape (S, C), of a sigmoid head.
        teacher_logits: Shape (S, C).
        weights: w, shape (S,), or None for 1.
        avg_factor: N, with 1 as the least. Published: the number of positives, with all anchors as samples. None is the
            sum of the weights.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For boxes that are not two (S, 4) matrices of one shape, logits that are not two (S, C) matrices of
            one shape, and weights that are not S numbers.
    """
    student, teacher = prepare_pair(student_boxes, teacher_boxes, ('S', 4), name='boxes')
    scores = [
        logits.sigmoid()
        for logits in prepare_pair(student_logits.detach(), teacher_logits, ('S', 'C'))
    ]
    distance = (scores[0] - scores[1]).abs().amax(1)
    return weighted_mean(
        distance * (1 - _generalized_overlap(student, teacher)), weights, avg_factor
    )


def overlapping(boxes: Tensor, others: Tensor, iou: float) -> Tensor:
    """(N, M) whether the IoU of (N, 4) and (M, 4) boxes is above a number, which a box without area never is."""
    shared = boxes.new_ones(())
    for low, high in ((0, 2), (1, 3)):
        side = torch.minimum(boxes[:, None, high], others[:, high])
        side = side.sub_(torch.maximum(boxes[:, None, low], others[:, low])).clamp_(min=0)
        shared = side.mul_(shared)
    areas = [
        (each[:, 2:] - each[:, :2]).clamp(min=0).prod(dim=1) for each in (boxes, others)
    ]  # of which the union has the shared one once
    return shared.mul_(1 + iou) > iou * (areas[0][:, None] + areas[1])


def _generalized_overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """(N,) GIoU of (N, 4) pairs; torchvision's picks the overlapping ones, which makes a device wait."""
    shared = torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])
    overlap = torch.where((shared > 0).all(dim=1), shared.prod(dim=1), 0.0)
    union = sum((each[:, 2:] - each[:, :2]).prod(dim=1) for each in (boxes, others)) - overlap
    hull = torch.maximum(boxes[:, 2:], others[:, 2:]) - torch.minimum(boxes[:, :2], others[:, :2])
    area = hull.prod(dim=1)
    return overlap / (union + _NO_AREA) - (area - union) / (area + _NO_AREA)
