"""MobileNetV2 for 32×32 images."""

from __future__ import annotations

from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from mmkd.registry import MODELS

from .layers import KAIMING, conv_bn_relu, convolution


@MODELS.register_module()
class CifarMobileNetV2(BaseBackbone):
    """MobileNetV2 (Sandler et al., arXiv 1801.04381) as distillation papers use it on CIFAR-100.

    Other than MMPretrain's ``MobileNetV2`` it has ReLU where that has ReLU6, an expansion in the first block too, and
    stride 1 in the second stage, so that the last map has stride 16; channels need not be multiples of 8.

    Args:
        width: Factor of all channels but the last 1280. 0.5 is the papers' student ("mobile_half").
    """

    EXPANSION = 6
    STAGES = (  # channels, blocks, stride
        (16, 1, 1),
        (24, 2, 1),
        (32, 3, 2),
        (64, 4, 2),
        (96, 3, 1),
        (160, 3, 2),
        (320, 1, 1),
    )

    def __init__(self, width: float = 0.5) -> None:
        super().__init__(init_cfg=KAIMING)
        channels = int(32 * width)
        self.conv1 = nn.Sequential(*conv_bn_relu(3, channels, 3, stride=2))
        self.blocks = nn.ModuleList()
        for index, (full_width, count, stride) in enumerate(self.STAGES):
            stage = nn.Sequential()
            for block in range(count):
                out_channels = int(full_width * width)
                stage.append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        stride=stride if block == 0 else 1,
                        expansion=1 if index == 0 else self.EXPANSION,
                    )
                )
                channels = out_channels
            self.blocks.append(stage)
        self.conv2 = nn.Sequential(*conv_bn_relu(channels, 1280, 1))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """(B, 3, 32, 32) images to a map of (B, 1280, 2, 2)."""
        features = self.conv1(images)
        for stage in self.blocks:
            features = stage(features)
        return (self.conv2(features),)


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise convolution, 1×1 projection; plus the input where the shape is the same."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = in_channels * expansion
        self.conv = nn.Sequential(
            *conv_bn_relu(in_channels, middle, 1),
            *conv_bn_relu(middle, middle, 3, stride, groups=middle),
            convolution(middle, out_channels, 1),
            nn.BatchNorm2d(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        projected = self.conv(features)
        return features + projected if self.residual else projected
