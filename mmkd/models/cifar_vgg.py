"""VGG with batch norm for 32×32 images."""

from __future__ import annotations

import torch.nn.functional as F
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from mmkd.registry import MODELS

from .layers import KAIMING, check_choice


@MODELS.register_module()
class CifarVGG(BaseBackbone):
    """VGG (Simonyan and Zisserman, arXiv 1409.1556) as distillation papers use it on CIFAR-100.

    Five blocks of 3×3 convolutions with bias, batch norm and ReLU, with 64, 128, 256, 512 and 512 channels; the size is
    halved between the first four. One linear layer on the average-pooled map classifies.

    Args:
        depth: 8, 11, 13, 16 or 19.

    Raises:
        ValueError: There is no VGG of this depth.
    """

    CONVOLUTIONS = {  # noqa: RUF012
        8: (1, 1, 1, 1, 1),
        11: (1, 1, 2, 2, 2),
        13: (2, 2, 2, 2, 2),
        16: (2, 2, 3, 3, 3),
        19: (2, 2, 4, 4, 4),
    }
    CHANNELS = (64, 128, 256, 512, 512)

    def __init__(self, depth: int) -> None:
        super().__init__(init_cfg=KAIMING)
        check_choice('CifarVGG', 'depth', depth, self.CONVOLUTIONS)
        in_channels = 3
        for index, (count, channels) in enumerate(
            zip(self.CONVOLUTIONS[depth], self.CHANNELS, strict=True)
        ):
            block = nn.Sequential()
            for _ in range(count):
                block.append(nn.Conv2d(in_channels, channels, 3, padding=1))
                block.append(nn.BatchNorm2d(channels))
                block.append(nn.ReLU(inplace=True))
                in_channels = channels
            self.add_module(f'block{index}', block)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """(B, 3, 32, 32) images to a map of (B, 512, 4, 4)."""
        features = images
        for index in range(5):
            features = self.get_submodule(f'block{index}')(features)
            if index < 3:
                features = F.max_pool2d(features, 2)
        return (features,)
