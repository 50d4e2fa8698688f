"""ResNet for 32×32 images with three stages of basic blocks."""

from __future__ import annotations

from typing import Any

from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock

from mmkd.registry import MODELS

from .layers import check_choice


@MODELS.register_module()
class CifarResNet(ResNet_CIFAR):
    """The ResNet of the CIFAR experiments (He et al., arXiv 1512.03385, section 4.2), depth 6n+2.

    A 3×3 convolution, three stages of n basic blocks with 1, 2 and 4 times ``base_channels`` at strides 1, 2 and 4, and
    1×1 convolutions on shortcuts that change the shape. Blocks do not start as the identity. MMPretrain's
    ``ResNet_CIFAR`` is the four-stage one of ImageNet; it is what distillation papers call ResNet50 on CIFAR-100.

    Args:
        depth: 8, 14, 20, 32, 44, 56 or 110.
        stem_channels: Channels of the first convolution: 16, or 32 for 8x4 and 32x4.
        base_channels: Channels of the first stage: 16, or 64 for 8x4 and 32x4.
        options: Further arguments of MMPretrain's ``ResNet``, such as ``frozen_stages`` and ``norm_cfg``.

    Raises:
        ValueError: There is no ResNet of this depth.
    """

    arch_settings = {  # noqa: RUF012  (as in the base class)
        depth: (BasicBlock, ((depth - 2) // 6,) * 3) for depth in (8, 14, 20, 32, 44, 56, 110)
    }

    def __init__(
        self, depth: int, stem_channels: int = 16, base_channels: int = 16, **options: Any
    ) -> None:
        check_choice('CifarResNet', 'depth', depth, self.arch_settings)
        super().__init__(
            depth,
            stem_channels=stem_channels,
            base_channels=base_channels,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            **{'out_indices': (2,), 'zero_init_residual': False, **options},
        )
