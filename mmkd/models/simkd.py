"""What a student of SimKD has between its backbone and its predictions.

Chen et al.: "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022. Its student is a network of its
own: the projector and the teacher's class layer are deployed with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn

from mmkd.checkpoints import load_checkpoint
from mmkd.registry import MODELS

from .layers import conv_bn_relu

_SETTING = "model.student.head.init_cfg=dict(type='Pretrained', checkpoint=..., prefix='head.')"


@MODELS.register_module()
class SimKDProjector(BaseModule):
    """A neck that makes the backbone's last map as wide as the teacher's, by 1×1, 3×3 and 1×1 convolutions.

    Each is followed by batch norm and ReLU; weights start as PyTorch makes them. It comes before the pooling,
    ``neck=[dict(type='mmkd.SimKDProjector', ...), dict(type='GlobalAveragePooling')]``, so that the projected map is at
    ``'neck.0'``.

    Args:
        in_channels: Channels of the student's last map.
        out_channels: Channels of the teacher's.
        reduction: By what the channels between are fewer than the teacher's. Published: 2.
    """

    def __init__(self, in_channels: int, out_channels: int, reduction: int = 2) -> None:
        super().__init__()
        middle = out_channels // reduction
        self.layers = nn.Sequential(
            *conv_bn_relu(in_channels, middle, 1),
            *conv_bn_relu(middle, middle, 3),
            *conv_bn_relu(middle, out_channels, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """(B, in_channels, H, W), the last of the backbone's maps, to (B, out_channels, H, W)."""
        return (self.layers(maps[-1]),)


@MODELS.register_module()
class ReusedLinearClsHead(LinearClsHead):
    """The class layer of a trained classifier, which does not learn.

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix='head.')``: the teacher's checkpoint. An exported
            student, whose own checkpoint has the layer, needs none.
        **options: MMPretrain's ``LinearClsHead``'s.

    Raises:
        ValueError: (By :meth:`init_weights`) there is no ``init_cfg``, or its checkpoint has no such class layer.
    """

    def __init__(self, *, init_cfg: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options, init_cfg=init_cfg)
        self.requires_grad_(False)

    def init_weights(self) -> None:
        """Load the class layer."""
        source = self.init_cfg or {}
        if source.get('type') != 'Pretrained':
            raise ValueError(
                f"ReusedLinearClsHead has no class layer to reuse: set {_SETTING} to the teacher's checkpoint, or take "
                'a LinearClsHead, which learns its own'
            )
        checkpoint, prefix = source['checkpoint'], source.get('prefix', 'head.')
        content = load_checkpoint(checkpoint)
        weights = {
            key.removeprefix(prefix): value
            for key, value in content.get('state_dict', content).items()
            if key.startswith(prefix)
        }
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f'{checkpoint} has no class layer under {prefix!r} that fits this head: {error}\nset {_SETTING} and '
                "in_channels to the teacher's"
            ) from None
        self._is_init = True
