"""ShuffleNetV1 for 32×32 images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.utils import channel_shuffle
from torch import Tensor, nn

from mmkd.registry import MODELS

from .layers import convolution


@MODELS.register_module()
class CifarShuffleNetV1(BaseBackbone):
    """ShuffleNetV1 (Zhang et al., arXiv 1707.01083) with 3 groups, as distillation papers use it on CIFAR-100.

    Other than MMPretrain's ``ShuffleNetV1`` it starts with a 1×1 convolution at full size, has a ReLU behind the
    depthwise convolutions too, and narrower middles where a unit halves the size. Weights start as PyTorch makes them.
    """

    GROUPS = 3
    STAGES = ((240, 4), (480, 8), (960, 4))  # channels, units

    def __init__(self) -> None:
        super().__init__()
        channels = 24
        self.conv1 = convolution(3, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        for index, (out_channels, count) in enumerate(self.STAGES, start=1):
            units = nn.Sequential()
            for unit in range(count):
                units.append(
                    ShuffleUnit(
                        channels,
                        out_channels,
                        halve=unit == 0,
                        # The first 24 channels are too few for groups.
                        first_groups=1 if index == 1 and unit == 0 else self.GROUPS,
                        groups=self.GROUPS,
                    )
                )
                channels = out_channels
            self.add_module(f'layer{index}', units)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """(B, 3, 32, 32) images to a map of (B, 960, 4, 4)."""
        features = F.relu(self.bn1(self.conv1(images)))
        for index in range(1, len(self.STAGES) + 1):
            features = self.get_submodule(f'layer{index}')(features)
        return (features,)


class ShuffleUnit(nn.Module):
    """Grouped 1×1, shuffle, 3×3 depthwise, grouped 1×1; added to the input or, where it halves the size, beside it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; where the unit halves the size, the pooled input is a part of them.
        halve: Whether to halve the size.
        first_groups: Groups of the first convolution and of the shuffle behind it.
        groups: Groups of the last convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, halve: bool, first_groups: int, groups: int
    ) -> None:
        super().__init__()
        self.halve = halve
        self.first_groups = first_groups
        own = out_channels - in_channels if halve else out_channels
        middle = own // 4
        self.conv1 = convolution(in_channels, middle, 1, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = convolution(middle, middle, 3, stride=2 if halve else 1, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = convolution(middle, own, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(own)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W), or half the height and width."""
        own = F.relu(self.bn1(self.conv1(features)))
        own = channel_shuffle(own, self.first_groups)
        own = F.relu(self.bn2(self.conv2(own)))
        own = self.bn3(self.conv3(own))
        if self.halve:
            pooled = F.avg_pool2d(features, 3, stride=2, padding=1)
            return F.relu(torch.cat([own, pooled], dim=1))
        return F.relu(own + features)
