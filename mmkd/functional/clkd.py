"""CLKD: logits as rows of samples, as columns of classes, and the correlation of the classes.

Zhang, Liu, Hopcroft, He: "Class-aware Information for Logit-based Knowledge Distillation", arXiv
2211.14773.
"""

from __future__ import annotations

from torch import Tensor

from ._common import check_not_negative, prepare_pair
from ._gram import compare_grams
from .rows import unit_rows


def clkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mu: float = 0.5,
    beta: float = 2.0,
    nu: float = 0.4,
) -> Tensor:
    r"""Compare the logits of each sample, those of each class over the batch, and the classes.

    .. math:: \mu (L_{ins} + \beta L_{cls}) + \nu L_{cc}

    - :math:`L_{ins}`: the mean squared difference of the rows, divided by their L2 norm.
    - :math:`L_{cls}`: the same of the columns, one per class and of S entries each.
    - :math:`L_{cc} = \| B_S - B_T \|_F^2 / C^2`, with B the C x C covariance of the classes over the
      batch. What B is, implementations disagree on: the centred and unbiased covariance is our
      reading.

    The paper adds its cross entropy with a weight of 0.1. As the columns of a larger batch have
    smaller entries, :math:`L_{cls}` depends on S, and samples cannot be weighted. The function can
    be differentiated once, not twice.

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        mu: :math:`\mu`, weight of rows and columns. Published: 0.5.
        beta: :math:`\beta`, weight of the columns beside the rows. Published: 2.
        nu: :math:`\nu`, weight of the covariances. Published: 0.4.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, and weights below 0.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_not_negative(mu=mu, beta=beta, nu=nu)
    of_samples = _mean_square(unit_rows(student) - unit_rows(teacher))
    of_classes = _mean_square(unit_rows(student.T) - unit_rows(teacher.T))
    return mu * (of_samples + beta * of_classes) + nu * _compare_covariances(student, teacher)


def _mean_square(differences: Tensor) -> Tensor:
    return differences.square().sum() / max(differences.numel(), 1)


def _compare_covariances(student: Tensor, teacher: Tensor) -> Tensor:
    deviations, teacher_deviations = (
        logits - logits.sum(0) / max(len(logits), 1) for logits in (student, teacher)
    )
    scale = 1 / (max(len(student) - 1, 1) * student.shape[1])
    return scale**2 * compare_grams(deviations.T, teacher_deviations.T)
