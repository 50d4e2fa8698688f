"""R2KD's correlation of class probabilities, of each sample and of each class.

"Robustness-Reinforced Knowledge Distillation with Correlation Distance and Network Pruning", IEEE
Transactions on Knowledge and Data Engineering 2024.
"""

from __future__ import annotations

from torch import Tensor

from ._common import (
    check_not_negative,
    check_positive,
    prepare_pair,
    prepare_weights,
    weighted_mean,
)
from .rows import unit_rows


def correlation_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    rows: float = 2.0,
    columns: float = 2.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Turn the student's probabilities towards the teacher's, by sample and by class.

    .. math:: v_r \tau^2 \, \mathrm{mean}_i \left[ 1 - \cos(q_{i:}, p_{i:}) \right]
        + v_c \tau^2 \, \mathrm{mean}_c \left[ 1 - \cos(q_{:c}, p_{:c}) \right]

    with teacher :math:`p = \mathrm{softmax}(t / \tau)` and student
    :math:`q = \mathrm{softmax}(s / \tau)`. :func:`mmkd.functional.dist_loss` is the same with the
    mean of each vector subtracted. The published cosines are absolute values, which cosines of
    probabilities are anyway.

    The published term with Spearman's rank correlation is left out, because ranks have no gradient.
    Neither the pruned copy of the teacher, whose logits are mixed into t, nor the augmented copies of
    the images are part of this function.

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        temperature: :math:`\tau`, positive. Published: 4.
        rows: :math:`v_r`, weight of the samples' cosines. Published: 2.
        columns: :math:`v_c`, weight of the classes' cosines. Published: 2.
        weights: Shape (S,), or None: the weight of each sample in the first term's mean and in
            the second term's cosines.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, weights that are not
            S numbers, a temperature that is not positive, and rows or columns below 0.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_positive('temperature', temperature)
    check_not_negative(rows=rows, columns=columns)
    weights = prepare_weights(weights, len(student))

    student_probs = (student / temperature).softmax(1)
    teacher_probs = (teacher / temperature).softmax(1)
    of_samples = weighted_mean(_cosine_distances(student_probs, teacher_probs), weights)
    if weights is not None:
        # The root, because a product of two entries should contain the weight once.
        student_probs = weights.sqrt()[:, None] * student_probs
        teacher_probs = weights.sqrt()[:, None] * teacher_probs
    of_classes = _cosine_distances(student_probs.T, teacher_probs.T).mean()
    return temperature**2 * (rows * of_samples + columns * of_classes)


def _cosine_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of each two rows; zero, with a zero gradient, for equal ones."""
    return 0.5 * (unit_rows(student) - unit_rows(teacher)).square().sum(1)
