"""MobileNetV1 for ImageNet."""

from __future__ import annotations

from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from mmkd.registry import MODELS

from .layers import conv_bn_relu


@MODELS.register_module()
class MobileNetV1(BaseBackbone):
    """MobileNetV1 (Howard et al., arXiv 1704.04861) at full width.

    A strided 3×3 convolution to 32 channels and 13 depthwise separable ones, each followed by batch norm and ReLU.
    Weights start as PyTorch makes them.
    """

    BLOCKS = (  # channels, stride
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (1024, 2),
        (1024, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        self.layers = nn.Sequential(nn.Sequential(*conv_bn_relu(3, channels, 3, stride=2)))
        for out_channels, stride in self.BLOCKS:
            self.layers.append(
                nn.Sequential(
                    *conv_bn_relu(channels, channels, 3, stride, groups=channels),
                    *conv_bn_relu(channels, out_channels, 1),
                )
            )
            channels = out_channels

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """(B, 3, 224, 224) images to a map of (B, 1024, 7, 7)."""
        return (self.layers(images),)
