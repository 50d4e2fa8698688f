"""AT: where in an image a layer is active.

Zagoruyko, Komodakis: "Paying More Attention to Attention", ICLR 2017.
"""

from __future__ import annotations

from torch import Tensor

from ._common import check_positive, prepare_pair
from .rows import unit_rows


def at_loss(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    r"""Compare the attention maps of two layers.

    .. math:: \mathrm{mean}_{b, x} \left( \frac{A^S_{bx}}{\|A^S_b\|} - \frac{A^T_{bx}}{\|A^T_b\|}
        \right)^2, \qquad A_{bx} = \mathrm{mean}_c \, |F_{bcx}|^p

    over images b and cells x; :math:`\|A_b\|` is the L2 norm over the cells of an image. As in the
    authors' code, the mean runs over all cells, with a weight of 1000. Neither scale nor number of
    the channels matters.

    Args:
        student: Map of shape (B, C_s, H, W).
        teacher: Map of shape (B, C_t, H, W). Gets no gradient.
        power: p, positive. Published: 2.

    Returns:
        A scalar, float32 or wider. B = 0 gives a zero that is still attached to the graph.

    Raises:
        ValueError: For features that are not two such maps, and a power that is not positive.
    """
    layout = ('B', 'C', 'H', 'W')
    student, teacher = prepare_pair(student, teacher, layout, name='features', free=[1])
    check_positive('power', power)
    differences = _attention(student, power) - _attention(teacher, power)
    return differences.square().sum() / max(differences.numel(), 1)


def _attention(maps: Tensor, power: float) -> Tensor:
    """(B, H W), one direction per image."""
    energy = maps.square() if power == 2 else maps.abs().pow(power)
    return unit_rows(energy.mean(1).flatten(1))
