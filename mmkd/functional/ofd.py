"""OFD: features before the ReLU, whose negative part has a margin.

Heo et al.: "A Comprehensive Overhaul of Feature Distillation", ICCV 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import prepare_pair
from .processes import sum_over_processes


def ofd_loss(student: Tensor, teacher: Tensor, gather: bool = False) -> Tensor:
    r"""The partial L2 distance to the teacher's map behind a margin ReLU.

    .. math:: \frac{1}{B} \sum_{b,c,x} [\, t > 0 \text{ or } s > t^m \,] \, (s - t^m)^2, \qquad
        t^m = \max(t, m_c), \quad m_c = E[\, t \mid t < 0 \,]

    What the ReLU cuts off anyway needs not be imitated: where the teacher's value is negative, the
    student's is only pulled down to it, and at most to the margin of the channel. As in the paper
    the distance is a sum over channels and cells, hence weights of 1e-3. The margin is the mean of
    the channel's negative values in the batch; the authors' code takes that of a Gaussian with the
    parameters of the batch normalisation before the ReLU, which not every network has.

    Args:
        student: Map of shape (B, C, H, W), before a ReLU.
        teacher: Map of the same shape, before a ReLU. Gets no gradient.
        gather: Take the margins over the maps of all processes. Each is to have the mean of its own
            images.

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For features that are not two such maps of one shape.
    """
    layout = ('B', 'C', 'H', 'W')
    student, teacher = prepare_pair(student, teacher, layout, name='features')
    target = torch.maximum(teacher, _margins(teacher, gather)[:, None, None])
    differences = (student - target) * ((student > target) | (teacher > 0))
    return differences.square().sum() / max(len(student), 1)


def _margins(teacher: Tensor, gather: bool) -> Tensor:
    """(C,): the mean of each channel's negative values, 0 where it has none."""
    negative = teacher.clamp(max=0)
    parts = torch.stack([part.sum((0, 2, 3)) for part in (negative, (negative < 0).to(negative))])
    total, count = sum_over_processes(parts) if gather else parts
    return total / count.clamp(min=1)
