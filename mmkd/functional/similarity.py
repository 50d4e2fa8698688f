"""Similarities of samples, or of channels, within each network: SP, PKT and ICKD.

Tung, Mori: "Similarity-Preserving Knowledge Distillation", ICCV 2019. Passalis, Tefas: "Learning
Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018. Liu et al.: "Exploring
Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation", ICCV 2021.
"""

from __future__ import annotations

from torch import Tensor

from ._common import prepare_features, prepare_pair
from ._gram import compare_similarities, products
from .rows import unit_rows

_LEAST_SIMILARITY = 1e-7
"""Added to a similarity, so that the logarithm of every one is finite."""


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


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""PKT: the similarities of a sample to all others as a distribution over the batch.

    .. math:: \frac{1}{S^2} \sum_i KL(p_i \,\|\, q_i), \qquad
        p_{ij} = \frac{(\cos(t_i, t_j) + 1) / 2}{\sum_k (\cos(t_i, t_k) + 1) / 2}

    and :math:`q` likewise of the student. As in the authors' code, the diagonal counts, the mean
    runs over all :math:`S^2` entries and 1e-7 keeps the logarithms finite; that it is added to the
    similarities, and not within the logarithms, is ours: equal networks are at rest. Neither scale
    nor rotation of a network's features matters, nor do their widths have to be equal. The weight
    in common use is 30,000.

    Args:
        student: Pooled features of shape (S, C_s).
        teacher: Pooled features of shape (S, C_t), row i of the same sample. Get no gradient.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph, and a
        single sample a zero.

    Raises:
        ValueError: For features that are not two matrices of as many rows.
    """
    student, teacher = prepare_pair(student, teacher, ('S', 'C'), name='features', free=[1])
    ours, theirs = _neighbours(student), _neighbours(teacher)
    divergences = theirs * (theirs.log() - ours.log())
    return divergences.sum() / max(divergences.numel(), 1)


def ickd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""ICKD: which channels of an image's map are active together.

    .. math:: \frac{1}{B C} \sum_{b,c} \left\| \frac{G^S_{bc}}{\|G^S_{bc}\|}
        - \frac{G^T_{bc}}{\|G^T_{bc}\|} \right\|^2, \qquad G_b = F_b F_b^\top

    with :math:`F_b` the C x HW map of image b and :math:`G_{bc}` row c of its C x C products, as in
    the authors' code for classification, whose weight is 2.5. The networks' scale does not matter.

    Args:
        student: Map of shape (B, C, H, W).
        teacher: Map of as many images and channels, of any size. Gets no gradient.

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For features that are not two such maps.
    """
    layout = ('B', 'C', 'H', 'W')
    student, teacher = prepare_pair(student, teacher, layout, name='features', free=[2, 3])
    distances = compare_similarities(student.flatten(2), teacher.flatten(2))
    return distances.sum() / max(distances.numel(), 1)


def _neighbours(features: Tensor) -> Tensor:
    """(S, S): the similarities of each sample to all, as probabilities."""
    directions = unit_rows(features)
    # Rounding may bring a cosine below -1.
    similarities = (products(directions, directions) + 1).clamp(min=0) / 2 + _LEAST_SIMILARITY
    return similarities / similarities.sum(1, keepdim=True)
