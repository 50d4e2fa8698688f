"""MGD on feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.functional.mgd import hide_cells, mgd_loss
from mmkd.registry import LOSSES
from mmkd.structures import FeaturePair, Step

from .features import FeatureLoss


@LOSSES.register_module()
class MGDLoss(FeatureLoss):
    """The teacher's map, generated from the student's with cells hidden (MGD, Yang et al., ECCV 2022).

    See :func:`mmkd.functional.mgd_loss`. Each level has a generation block, 3×3 convolution, ReLU, 3×3 convolution. It
    is trained with the student and is a part of the loss: the student without it is the plain student.

    Args:
        mask_ratio: Share of the cells that are hidden. Published: 0.65 with a weight of 2e-5 for one-stage detectors,
            0.45 with 5e-7 for two-stage ones.
        **options: See :class:`mmkd.losses.FeatureLoss`.

    Raises:
        ValueError: ``mask_ratio`` is negative, or 1 or more.
    """

    generators: nn.ModuleList

    def __init__(self, mask_ratio: float = 0.65, **options: Any) -> None:
        super().__init__(**options)
        try:
            hide_cells(torch.zeros(0, 1, 1, 1), mask_ratio)
        except ValueError as error:
            raise ValueError(f'MGDLoss.mask_{error}') from None
        self.mask_ratio = mask_ratio

    def _make_layers(self, channels: Mapping[int, tuple[int, int]]) -> None:
        """Make one generation block per level, of the teacher's width."""
        super()._make_layers(channels)
        self.generators = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(theirs, theirs, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(theirs, theirs, kernel_size=3, padding=1),
            )
            for _, theirs in channels.values()
        )

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        """The sum over the levels."""
        values = [
            mgd_loss(
                generate(hide_cells(pair.student, self.mask_ratio, step.generator)), pair.teacher
            )
            for pair, generate in zip(pairs, self.generators, strict=True)
        ]
        return torch.stack(values).sum()
