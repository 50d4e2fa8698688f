"""Similarities of samples, or of channels, within each network: SP.

Tung, Mori: "Similarity-Preserving Knowledge Distillation", ICCV 2019.
"""

from __future__ import annotations

from torch import Tensor

from ._common import prepare_features
from ._gram import compare_similarities


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""SP: which samples of a batch are similar, by all that a layer outputs for them.

    .. math:: \frac{1}{B^2} \sum_i \left\| \frac{G^S_i}{\|G^S_i\|} - \frac{G^T_i}{\|G^T_i\|}
        \right\|^2, \qquad G_{ij} = f_i \cdot f_j

    with :math:`f_i` the flattened features of sample i and :math:`G_i` row i of G. Widths and sizes
    need not be equal, and neither network's scale matters. The published weight is 3000.

    Args:
        student: Features of shape (B, C) or maps of shape (B, C, H, W).
        teacher: Of as many samples and dimensions. Get no gradient.

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph, and a
        single sample a zero: it is similar to itself only.

    Raises:
        ValueError: For features that are not two such tensors of as many samples.
    """
    student, teacher = prepare_features(student, teacher, free=[1, 2, 3])
    distances = compare_similarities(student.flatten(1), teacher.flatten(1))
    return distances.sum() / max(len(student), 1) ** 2
