"""Mimic: features of regions.

Li, Jin, Yan: "Mimicking Very Efficient Network for Object Detection", CVPR 2017.
"""

from __future__ import annotations

from torch import Tensor

from ._common import mean_of_sum, prepare_pair


def mimic_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Compare the features of regions that were pooled to one size.

    .. math:: \frac{1}{2 N} \sum_i \frac{1}{m} \| r(S)_i - T_i \|^2

    with m the number of values of a region.

    Args:
        student: Features of N regions, shape (N, C, h, w), brought to the teacher's width by r.
        teacher: Features of the same regions, of the same shape. Get no gradient.

    Returns:
        A scalar, float32 or wider. N = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For features that are not two (N, C, h, w) tensors of one shape.
    """
    student, teacher = prepare_pair(student, teacher, ('N', 'C', 'h', 'w'), name='features')
    return mean_of_sum((student - teacher).square().sum(), student.numel()) / 2
