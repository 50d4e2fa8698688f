"""Wide ResNet for 32×32 images."""

from __future__ import annotations

import torch.nn.functional as F
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from mmkd.registry import MODELS

from .layers import KAIMING, convolution


@MODELS.register_module()
class WideResNet(BaseBackbone):
    """WRN-depth-width (Zagoruyko and Komodakis, arXiv 1605.07146), depth 6n+4.

    A 3×3 convolution to 16 channels, three stages of n pre-activated basic blocks with 16, 32 and 64 times ``width``
    channels at strides 1, 2 and 4, then batch norm and ReLU.

    Args:
        depth: 16, 22, 28, 40, ...
        width: Factor of the stages' channels.

    Raises:
        ValueError: ``depth`` is not 6n+4.
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__(init_cfg=KAIMING)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f'WideResNet.depth: {depth} is not 6n+4, such as 16, 28 or 40')
        self.conv1 = convolution(3, 16, 3)
        channels = [16, 16 * width, 32 * width, 64 * width]
        for stage in (1, 2, 3):
            blocks = nn.Sequential()
            for block in range((depth - 4) // 6):
                first = block == 0
                blocks.append(
                    PreActivatedBlock(
                        channels[stage - 1] if first else channels[stage],
                        channels[stage],
                        stride=2 if first and stage > 1 else 1,
                    )
                )
            self.add_module(f'layer{stage}', blocks)
        self.bn1 = nn.BatchNorm2d(channels[-1])

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """(B, 3, 32, 32) images to a map of (B, 64 · width, 8, 8)."""
        features = self.conv1(images)
        for stage in (1, 2, 3):
            features = self.get_submodule(f'layer{stage}')(features)
        return (F.relu(self.bn1(features)),)


class PreActivatedBlock(nn.Module):
    """Twice batch norm, ReLU and 3×3 convolution, plus the input.

    Where the number of channels changes, a 1×1 convolution of the activated input takes the input's place.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3)
        same = in_channels == out_channels
        self.shortcut = None if same else convolution(in_channels, out_channels, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        activated = F.relu(self.bn1(features))
        residual = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return residual + (features if self.shortcut is None else self.shortcut(activated))
