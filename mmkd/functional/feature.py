"""Feature maps: PKD, the hierarchical context loss of ReviewKD, and CWD.

Cao et al.: "PKD: General Distillation Framework for Object Detectors via Pearson Correlation
Coefficient", NeurIPS 2022. Chen, Liu, Zhao, Jia: "Distilling Knowledge via Knowledge Review", CVPR
2021. Shu, Liu, Gao, Yan, Shen: "Channel-wise Knowledge Distillation for Dense Prediction", ICCV
2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import check_positive, prepare_pair
from ._correlation import correlation_distance
from ._divergence import categorical_kl
from .processes import sum_over_processes, world_size


def pkd_loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], gather: bool = False
) -> Tensor:
    r"""PKD: one minus the correlation of every channel with the teacher's.

    .. math:: \sum_l \tfrac{1}{2} \, \mathrm{mean} (\tilde s_l - \tilde t_l)^2
        = \sum_l \mathrm{mean}_c \left[ 1 - \rho(s_{lc}, t_{lc}) \right]

    where the tilde standardises every channel over batch and space to mean 0 and (population)
    variance 1, and :math:`\rho` is Pearson's correlation of a channel. Neither a channel's offset
    nor its (positive) scale matters. A constant channel becomes zero and gets a zero gradient.

    Args:
        student_features: One map of shape (N, C, H, W) per level.
        teacher_features: As many maps, level by level of the student's shape. Get no gradient.
        gather: The maps of all processes (of the default process group) are one batch; all of them
            have to call this. Without a process group it changes nothing.

    Returns:
        A scalar, float32 or wider, between 0 and 2 per level. N = 0 gives a zero that is still
        attached to the graph. With ``gather`` the mean of the processes' values is the loss of the
        whole batch, and the mean of their gradients its gradient.

    Raises:
        ValueError: For features that are not two sequences of as many (N, C, H, W) maps, one at
            least, of the same shapes.
    """
    processes = world_size() if gather else 1
    total = sum_over_processes if processes > 1 else None
    losses = [
        correlation_distance(_channels(student), _channels(teacher), dim=1, total=total).mean()
        for student, teacher in prepare_levels(student_features, teacher_features)
    ]
    return torch.stack(losses).sum() * processes


def hcl_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    r"""Compare maps at full size and pooled to smaller sizes (ReviewKD's hierarchical context loss).

    .. math:: \sum_l \frac{1}{\sum_k 2^{-k}} \sum_{k \ge 0}
        2^{-k} \, \mathrm{mean} \left( pool_k(s_l) - pool_k(t_l) \right)^2

    :math:`pool_0` is the identity; the others are adaptive average poolings to 4 x 4, 2 x 2 and
    1 x 1. Those that would not reduce the height are left out; as in the authors' code, the width
    does not matter. The weight halves from each size in use to the next.

    Args:
        student_features: One map of shape (N, C, H, W) per level.
        teacher_features: As many maps, level by level of the student's shape. Get no gradient.

    Returns:
        A scalar, float32 or wider. N = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For features that are not two sequences of as many (N, C, H, W) maps, one at
            least, of the same shapes.
    """
    losses = [
        # Pooling is linear: the pooled difference is the difference of the pooled.
        _hierarchical_mean_square(student - teacher)
        for student, teacher in prepare_levels(student_features, teacher_features)
    ]
    return torch.stack(losses).sum()


def cwd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    r"""CWD: where in the image each channel is active, as a distribution over space.

    With :math:`p` and :math:`q` the softmax of the teacher's and the student's channel over its
    H x W cells, both divided by the temperature first,

    .. math:: \frac{\tau^2}{B C} \sum_{b, c} KL(p_{bc} \,\|\, q_{bc})

    A channel's offset does not matter.

    Args:
        student: Map of shape (B, C, H, W): a neck's, or the class logits of a dense head.
        teacher: Map of the same shape. Gets no gradient.
        temperature: :math:`\tau`, positive. Published: 10 on necks (with a weight of 10 for the
            loss), 5 on class maps (with 2).

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For maps that are not two (B, C, H, W) tensors of one shape, and a temperature
            that is not positive.
    """
    student, teacher = prepare_pair(student, teacher, ('B', 'C', 'H', 'W'), name='features')
    check_positive('temperature', temperature)
    divergences = categorical_kl(student.flatten(2) / temperature, teacher.flatten(2) / temperature)
    return temperature**2 * divergences.sum() / max(divergences.numel(), 1)


def prepare_levels(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Check the levels of student and teacher, detach the teacher's, bring both to float32 or wider."""
    if isinstance(student_features, Tensor) or isinstance(teacher_features, Tensor):
        raise ValueError('features: one tensor is not a sequence of levels: use [features]')
    if not len(student_features) == len(teacher_features) > 0:
        raise ValueError(
            f'features: {len(student_features)} levels of the student and {len(teacher_features)} '
            'of the teacher: both must have the same levels, one at least'
        )
    pairs = zip(student_features, teacher_features, strict=True)
    return [
        prepare_pair(student, teacher, ('N', 'C', 'H', 'W'), name=f'features of level {level}')
        for level, (student, teacher) in enumerate(pairs)
    ]


def _channels(features: Tensor) -> Tensor:
    """(N, C, H, W) as (C, N H W)."""
    return features.transpose(0, 1).flatten(1)


def _hierarchical_mean_square(difference: Tensor) -> Tensor:
    weight = total_weight = 1.0
    loss = _mean_square(difference)
    for size in (4, 2, 1):
        if size < difference.shape[2]:
            weight /= 2
            total_weight += weight
            loss = loss + weight * _mean_square(F.adaptive_avg_pool2d(difference, size))
    return loss / total_weight


def _mean_square(values: Tensor) -> Tensor:
    return values.square().sum() / max(values.numel(), 1)
