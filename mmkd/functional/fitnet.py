"""FitNet: the squared distance to the teacher's features.

Romero et al.: "FitNets: Hints for Thin Deep Nets", ICLR 2015.
"""

from __future__ import annotations

from torch import Tensor

from ._common import prepare_features


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""The mean squared difference of features, :math:`\mathrm{mean} (s - t)^2`.

    A thinner student's come from a layer that is trained with it, which brings them to the
    teacher's width. The weight in common use is 100.

    Args:
        student: Features of shape (B, C) or maps of shape (B, C, H, W).
        teacher: Of the same shape. Get no gradient.

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For features that are not two such tensors of one shape.
    """
    student, teacher = prepare_features(student, teacher)
    return (student - teacher).square().sum() / max(student.numel(), 1)
