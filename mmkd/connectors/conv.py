"""A convolution as connector."""

from __future__ import annotations

from torch import Tensor, nn

from mmkd.registry import CONNECTORS

from .norm import TolerantBatchNorm2d


@CONNECTORS.register_module()
class ConvConnector(nn.Module):
    """A convolution, and BN if wanted, from the student's channels to the teacher's; of pooled features a linear layer.

    A part of the loss: trained with the student, saved under ``distill.*``, and not in the student.

    Args:
        in_channels: Channels of the student's map; set by the loss.
        out_channels: Channels of the teacher's map; set by the loss.
        kernel_size: Odd; the map keeps its size.
        norm: Add BN. The convolution has a bias only without it.

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
