"""ReviewKD on neck features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.connectors import TolerantBatchNorm2d
from mmkd.functional import hcl_loss
from mmkd.registry import LOSSES
from mmkd.structures import FeaturePair, Step

from .features import FeatureLoss


@LOSSES.register_module()
class ReviewKDLoss(FeatureLoss):
    """Knowledge review of neck maps (ReviewKD, Chen et al., CVPR 2021).

    From the deepest level to the shallowest, each of the student's maps is fused with the result of the deeper levels
    (:class:`Fusion`). Every fused map is compared with the teacher's map of its level by the hierarchical context loss
    (:func:`mmkd.functional.hcl_loss`), summed over the levels. The fusions are trained with the student, but are a part
    of the loss, not of the student.

    Args:
        mid_channels: Channels of the map handed from level to level; default: as many as the teacher's widest level
            (256 with the usual FPN, as published).
        **options: See :class:`mmkd.losses.FeatureLoss`. Published weights: 1 for most pairs, 0.8 to 2 on FPN levels P2
            to P6 (configs/ckd_paper).

    Raises:
        ValueError: ``mid_channels`` is not a positive whole number.
    """

    fusions: nn.ModuleList

    def __init__(self, mid_channels: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if mid_channels is not None and not (isinstance(mid_channels, int) and mid_channels > 0):
            raise ValueError(
                f'ReviewKDLoss.mid_channels: {mid_channels!r} is not a positive whole number'
            )
        self.mid_channels = mid_channels

    def _make_layers(self, channels: Mapping[int, tuple[int, int]]) -> None:
        """Make one fusion per level."""
        middle = self.mid_channels or max(theirs for _, theirs in channels.values())
        deepest = len(channels) - 1
        self.fusions = nn.ModuleList(
            Fusion(ours, middle, theirs, gated=level < deepest)
            for level, (ours, theirs) in enumerate(channels.values())
        )

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        """Fuse from deep to shallow, compare level by level."""
        fused: list[Tensor] = []
        review: Tensor | None = None
        for pair, fusion in zip(reversed(pairs), reversed(self.fusions), strict=True):
            output, review = fusion(pair.student, review)
            fused.append(output)
        return hcl_loss(fused[::-1], [pair.teacher for pair in pairs])


class Fusion(nn.Module):
    """Attention-based fusion of a level's map with the review of the deeper levels.

    The map goes through a 1×1 convolution and batch norm; the review is upsampled to its size (nearest). A 1×1
    convolution of both and a sigmoid give two gates (B, 2, H, W); the gated sum is the new review. A 3×3 convolution
    and batch norm turn it into the map that is compared with the teacher's.

    Args:
        in_channels: Channels of the student's map.
        mid_channels: Channels of the review.
        out_channels: Channels of the teacher's map.
        gated: False for the deepest level, which has no review to fuse with.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, gated: bool) -> None:
        super().__init__()
        self.squeeze = _conv_bn(in_channels, mid_channels, kernel_size=1)
        self.gates = nn.Conv2d(2 * mid_channels, 2, kernel_size=1) if gated else None
        self.expand = _conv_bn(mid_channels, out_channels, kernel_size=3)

    def forward(self, features: Tensor, review: Tensor | None) -> tuple[Tensor, Tensor]:
        """The map to compare, and the review for the next level.

        Args:
            features: (B, in_channels, H, W) the student's map.
            review: (B, mid_channels, h, w) from the next deeper level, None at the deepest.

        Returns:
            (B, out_channels, H, W) and (B, mid_channels, H, W).
        """
        squeezed = self.squeeze(features)
        if self.gates is not None:
            assert review is not None
            deeper = F.interpolate(review, size=squeezed.shape[-2:], mode='nearest')
            own, handed = self.gates(torch.cat([squeezed, deeper], dim=1)).sigmoid().chunk(2, dim=1)
            squeezed = own * squeezed + handed * deeper
        return self.expand(squeezed), squeezed


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
    )
    # As the paper's code: uniform with the gain of a linear layer.
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, TolerantBatchNorm2d(out_channels))
