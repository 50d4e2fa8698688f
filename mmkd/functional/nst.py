"""NST: the channels of a map as samples of one distribution.

Huang, Wang: "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv
1707.01219.
"""

from __future__ import annotations

from torch import Tensor

from ._common import prepare_pair
from ._gram import products
from .rows import unit_rows


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""The maximum mean discrepancy of the channels of two maps, with the kernel (x · y)².

    .. math:: \mathrm{mean}_b \left[ \mathrm{mean}_{cc'} (s_c \cdot s_{c'})^2
        + \mathrm{mean}_{cc'} (t_c \cdot t_{c'})^2 - 2 \, \mathrm{mean}_{cc'} (s_c \cdot t_{c'})^2
        \right]

    with :math:`s_c` channel c of image b, over its cells, divided by its L2 norm. Neither the scale
    nor the order of the channels matters, nor does their number have to be equal. The published
    weight is 50.

    Args:
        student: Map of shape (B, C_s, H, W).
        teacher: Map of shape (B, C_t, H, W). Gets no gradient.

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For features that are not two such maps.
    """
    layout = ('B', 'C', 'H', 'W')
    student, teacher = prepare_pair(student, teacher, layout, name='features', free=[1])
    ours, theirs = unit_rows(student.flatten(2)), unit_rows(teacher.flatten(2))
    if ours.shape[2] <= max(ours.shape[1], theirs.shape[1]):
        # The same by the cells, of which there are fewer: the squared distance of their mean products.
        differences = _of_cells(ours) - _of_cells(theirs)
        return differences.square().sum() / max(len(student), 1)
    kernels = _kernel(ours, ours) + _kernel(theirs, theirs) - 2 * _kernel(ours, theirs)
    return kernels.sum() / max(len(student), 1)


def _kernel(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B,): the mean kernel of all pairs of channels."""
    return products(ours, theirs).square().mean((1, 2))


def _of_cells(channels: Tensor) -> Tensor:
    """(B, HW, HW): the products of the cells, averaged over the channels."""
    return products(channels.mT, channels.mT) / channels.shape[1]
