"""MLLD: class probabilities at several temperatures, and how samples and classes relate in them.

Jin, Wang, Lin: "Multi-Level Logit Distillation", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._common import check_not_negative, check_positive, prepare_pair
from ._divergence import categorical_kl
from ._gram import compare_grams


def mlld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    sample_weight: float = 1.0,
    class_weight: float = 1.0,
) -> Tensor:
    r"""Compare each sample's probabilities, those of every two samples and those of every two classes.

    With the (S, C) matrices :math:`P = \mathrm{softmax}(t / \tau)` of the teacher and
    :math:`Q = \mathrm{softmax}(s / \tau)` of the student, the loss is the sum over the temperatures
    :math:`\tau` of

    .. math:: \frac{\tau^2}{S} \sum_i KL(P_i \,\|\, Q_i)
        + \frac{w_s}{S} \left\| P P^T - Q Q^T \right\|_F^2
        + \frac{w_c}{C} \left\| P^T P - Q^T Q \right\|_F^2

    This is what is published for one view of the images. The authors' code computes it for a weakly
    augmented one and adds the divergences of a strongly augmented one; and it means to count only
    half of the samples and of the classes, by the teacher's confidence, but applies the masks to
    means, which halves them: neither is done here.

    The entries of :math:`P^T P` grow with S: the last term depends on the size of the batch, and
    samples cannot be weighted. Memory grows with :math:`S^2 + C^2`. The function can be
    differentiated once, not twice.

    Args:
        student_logits: Shape (S, C).
        teacher_logits: Shape (S, C). Gets no gradient.
        temperatures: The values of :math:`\tau`, positive. Published: 2 to 6.
        sample_weight: :math:`w_s`, weight of the relations between samples. Published: 1.
        class_weight: :math:`w_c`, weight of the relations between classes. Published: 1.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, temperatures that are
            none or not positive, and weights below 0.
    """
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    check_not_negative(sample_weight=sample_weight, class_weight=class_weight)
    if not (isinstance(temperatures, Sequence) and temperatures):
        raise ValueError(f'temperatures: {temperatures!r} is no list of positive numbers')
    num_samples, num_classes = max(len(student), 1), student.shape[1]
    terms = []
    for temperature in temperatures:
        check_positive('temperatures', temperature)
        ours, theirs = student / temperature, teacher / temperature
        divergences = categorical_kl(ours, theirs).sum()
        ours, theirs = ours.softmax(1), theirs.softmax(1)
        terms.append(
            temperature**2 * divergences / num_samples
            + sample_weight * compare_grams(ours, theirs) / num_samples
            + class_weight * compare_grams(ours.T, theirs.T) / num_classes
        )
    return torch.stack(terms).sum()
