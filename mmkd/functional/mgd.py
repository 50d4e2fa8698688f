"""MGD: the teacher's whole map, made of what is left of the student's when part of its cells are hidden.

Yang et al.: "Masked Generative Distillation", ECCV 2022.
"""

from __future__ import annotations

from typing import SupportsFloat

import torch
from torch import Tensor

from ._common import prepare_pair


def mgd_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    r"""Compare the map that was generated from the student's masked one with the teacher's.

    .. math:: \frac{1}{B} \| G(S \odot M) - T \|^2

    Args:
        generated: :math:`G(S \odot M)`, shape (B, C, H, W): the student's map with cells hidden by :func:`hide_cells`
            and put through a generation block. Published: 3 x 3 convolution, ReLU, 3 x 3 convolution.
        teacher: Map of the same shape. Gets no gradient.

    Returns:
        A scalar, float32 or wider: a sum over channels and cells, averaged over images. B = 0 gives a zero that is
        still attached to the graph.

    Raises:
        ValueError: For maps that are not two (B, C, H, W) tensors of one shape.
    """
    generated, teacher = prepare_pair(generated, teacher, ('B', 'C', 'H', 'W'), name='features')
    return (generated - teacher).square().sum() / max(len(generated), 1)


def hide_cells(features: Tensor, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Set cells to 0 in all channels, each with a probability of ``ratio``.

    Args:
        features: Shape (B, C, H, W).
        ratio: From 0 up to 1, without it. Published: 0.65 for one-stage detectors, 0.45 for two-stage ones.
        generator: Of the random numbers, on the device of the map.

    Raises:
        ValueError: For a ratio outside of this range.
    """
    if not (isinstance(ratio, SupportsFloat) and 0 <= float(ratio) < 1):
        raise ValueError(
            f'ratio: {ratio!r} is no share of the cells: give 0 or more, and less than 1'
        )
    batch, _, height, width = features.shape
    drawn = torch.rand(batch, 1, height, width, generator=generator, device=features.device)
    return features * (drawn >= ratio)
