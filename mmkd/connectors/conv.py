"""A convolution as a connector."""

from __future__ import annotations

from torch import Tensor, nn

from mmkd.registry import CONNECTORS

from .norm import TolerantBatchNorm2d


@CONNECTORS.register_module()
class ConvConnector(nn.Module):
    """A convolution, optionally with batch norm, from the student's channels to the teacher's.

    For pooled features it is a linear layer.

    It is a part of the loss, not of the student: trained with the student and saved under ``distill.*``.

    Args:
        in_channels: Channels of the student's map; set by the loss.
        out_channels: Channels of the teacher's map; set by the loss.
        kernel_size: An odd number; padding keeps the map's size.
        norm: Add batch norm. The convolution then has no bias.

    Raises:
        ValueError: ``kernel_size`` is not a positive odd number.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, norm: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f'ConvConnector.kernel_size: {kernel_size!r} is not a positive odd number'
            )
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm
        )
        self.norm = TolerantBatchNorm2d(out_channels) if norm else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W), or pooled (B, in_channels) to (B, out_channels)."""
        if features.dim() == 2:
            return self(features[..., None, None]).flatten(1)
        return self.norm(self.conv(features))
