"""DIST: the teacher's relations between classes and between samples, by correlation.

Huang, You, Wang, Qian, Xu: "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.
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
from ._correlation import correlation_distance


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Correlate the student's probabilities with the teacher's, by sample and by class.

    .. math:: \beta \tau^2 \, \mathrm{mean}_i \left[ 1 - \rho(p_{i:}, q_{i:}) \right]
        + \gamma \tau^2 \, \mathrm{mean}_c \left[ 1 - \rho(p_{:c}, q_{:c}) \right]

    with teacher :math:`p = \mathrm{softmax}(t / \tau)`, student
    :math:`q = \mathrm{softmax}(s / \tau)` and :math:`\rho` Pearson's correlation: the first term
    relates the classes of a sample, the second the samples of a class. A vector without variance
    (S = 1, a class that underflows everywhere, a uniform row) has no correlation:
    :math:`1 - \rho` is 0 if the other one has none either, 1/2 if it has, and pulls at nothing.
    The authors' code adds 1e-8 to the denominator of :math:`\rho` instead, so that classes whose
    probabilities hardly leave 0 pull less there than here.

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        beta: Weight of the relations between classes.
        gamma: Weight of the relations between samples.
        temperature: :math:`\tau`, positive. Published: 1 on ImageNet, 4 on CIFAR-100, with a
            weight of 2 for the whole.
        weights: Shape (S,), or None: the weight of each sample in the first term's mean and in
            the second term's correlations.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, weights that are not
            S numbers, a temperature that is not positive, and a beta or gamma that is negative.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_positive('temperature', temperature)
    check_not_negative(beta=beta, gamma=gamma)
    weights = prepare_weights(weights, len(student))
    row_weights = None if weights is None else weights.unsqueeze(1)

    student_probs = (student / temperature).softmax(1)
    teacher_probs = (teacher / temperature).softmax(1)
    of_samples = correlation_distance(student_probs, teacher_probs, dim=1)
    of_classes = correlation_distance(student_probs, teacher_probs, dim=0, weights=row_weights)
    return temperature**2 * (beta * weighted_mean(of_samples, weights) + gamma * of_classes.mean())
