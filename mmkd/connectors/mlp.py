"""Several 1×1 convolutions as connector."""

from __future__ import annotations

from torch import Tensor, nn

from mmkd.registry import CONNECTORS


@CONNECTORS.register_module()
class MLPConnector(nn.Module):
    """Three 1×1 convolutions with ReLU between them, from the student's channels to the teacher's.

    What VID (Ahn et al., CVPR 2019) predicts the teacher's map with; of pooled features three linear layers. A part of
    the loss: trained with the student, saved under ``distill.*``, and not in the student.

    Args:
        in_channels: Channels of the student's map; set by the loss.
        out_channels: Channels of the teacher's map, and of what is between the layers; set by the loss.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W), or pooled (B, in_channels) to (B, out_channels)."""
        if features.dim() == 2:
            return self.layers(features[..., None, None]).flatten(1)
        return self.layers(features)
