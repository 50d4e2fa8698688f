"""Layers that several backbones are made of."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

KAIMING = dict(type='Kaiming', layer='Conv2d')
"""``init_cfg``: normal with the variance 2 / (kernel size² · output channels), zero biases."""


class PlainConv2d(nn.Conv2d):
    """A convolution that starts as PyTorch makes it within mmcv's ``ConvModule`` too.

    A ``ConvModule`` initialises its convolution anew unless that has a way of its own, which it has here.
    """

    def init_weights(self) -> None:
        """Draw PyTorch's own weights."""
        self.reset_parameters()


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias, as batch norm follows, that keeps the size (at stride 1)."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=False,
    )


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution, batch norm and ReLU."""
    return [
        convolution(in_channels, out_channels, kernel_size, stride, groups),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


def check_choice(owner: str, name: str, value: object, choices: Collection[object]) -> None:
    """Refuse an option that no published network has.

    Raises:
        ValueError: ``value`` is none of ``choices``.
    """
    if value not in choices:
        raise ValueError(f'{owner}.{name}: {value!r} is none of {list(choices)}')
