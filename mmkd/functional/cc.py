"""CC: the errors of samples that follow each other.

Peng et al.: "Correlation Congruence for Knowledge Distillation", ICCV 2019.
"""

from __future__ import annotations

from torch import Tensor

from ._common import prepare_pair


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Products of the absolute errors of samples that follow each other in the batch.

    .. math:: \frac{1}{S - 1} \sum_{i=1}^{S-1} \sum_c |s_{ic} - t_{ic}| \, |s_{i+1,c} - t_{i+1,c}|

    This is the authors' code as RepDistiller has it, and what tables of methods compare as CC, with
    a weight of 0.02; the paper itself compares Gaussian kernel matrices. Unlike those of other
    losses, its value depends on the order of the samples.

    Args:
        student: Pooled features of shape (S, C).
        teacher: Pooled features of shape (S, C), row i of the same sample. Get no gradient.

    Returns:
        A scalar, float32 or wider. Fewer than two samples give a zero that is still attached to
        the graph.

    Raises:
        ValueError: For features that are not two (S, C) matrices of one shape.
    """
    student, teacher = prepare_pair(student, teacher, ('S', 'C'), name='features')
    errors = (student - teacher).abs()
    return (errors[:-1] * errors[1:]).sum() / max(len(errors) - 1, 1)
