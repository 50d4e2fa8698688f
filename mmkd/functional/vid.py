"""VID: how likely the teacher's features are, given the student's.

Ahn et al.: "Variational Information Distillation for Knowledge Transfer", CVPR 2019.
"""

from __future__ import annotations

from torch import Tensor

from ._common import prepare_features
from .rows import at_least_float32


def vid_loss(student: Tensor, teacher: Tensor, variances: Tensor) -> Tensor:
    r"""The negative log likelihood of the teacher's features under a Gaussian.

    .. math:: \mathrm{mean} \, \tfrac{1}{2} \left[ \frac{(s - t)^2}{\sigma_c^2} + \log \sigma_c^2 \right]

    with a variance per channel c; the constant log 2π is left out, as in the authors' code. The
    published weight is 1. The value may be negative.

    Args:
        student: What a network predicts of the teacher's features from the student's: shape (B, C)
            or (B, C, H, W).
        teacher: The teacher's features, of the same shape. Get no gradient.
        variances: :math:`\sigma_c^2`, shape (C,), positive. Get a gradient.

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For features that are not two such tensors of one shape, and variances that are
            not one per channel.
    """
    student, teacher = prepare_features(student, teacher)
    if variances.shape != student.shape[1:2]:
        raise ValueError(
            f'variances: shape {tuple(variances.shape)} is not ({student.shape[1]},), one per channel'
        )
    variances = at_least_float32(variances).view(1, -1, *[1] * (student.dim() - 2))
    values = (student - teacher).square() / variances + variances.log()
    return 0.5 * values.sum() / max(values.numel(), 1)
