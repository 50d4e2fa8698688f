"""ShuffleNetV2 for 32×32 images."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmpretrain.models.backbones import ShuffleNetV2
from torch import nn

from mmkd.registry import MODELS

from .layers import PlainConv2d


@MODELS.register_module()
class CifarShuffleNetV2(ShuffleNetV2):
    """ShuffleNetV2 (Ma et al., arXiv 1807.11164) as distillation papers use it on CIFAR-100.

    MMPretrain's, but for a 1×1 convolution at full size in the place of a strided 3×3 one and a max pool, and for
    weights that start as PyTorch makes them.

    Args:
        options: See MMPretrain's ``ShuffleNetV2``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{'conv_cfg': dict(type=PlainConv2d), **options})
        self.conv1 = ConvModule(
            3,
            24,
            1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )
        self.maxpool = nn.Identity()
        self._freeze_stages()

    def init_weights(self) -> None:
        """Only what ``init_cfg`` asks for."""
        BaseModule.init_weights(self)
