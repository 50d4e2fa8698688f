"""The networks of CRD's and mdistiller's code, written out as functions of weights that have their published names.

A network makes every weight, at random, when it first uses it: running one gives both a file in the published format
and the logits that a converted copy has to give.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


class Network:
    """Layers that look up their weights by name, in float64, as in eval mode."""

    def __init__(self, forward: Callable[[Network, Tensor], Tensor]) -> None:
        self.weights: dict[str, Tensor] = {}
        self.forward = forward
        self._noise = torch.Generator().manual_seed(0)

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(self, images)

    def _weight(self, name: str, shape: tuple[int, ...], mean: float, std: float) -> Tensor:
        if name not in self.weights:
            noise = torch.randn(shape, generator=self._noise, dtype=torch.float64)
            self.weights[name] = (mean + std * noise).float()
        assert self.weights[name].shape == shape
        return self.weights[name].double()

    def conv(
        self,
        name: str,
        x: Tensor,
        channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> Tensor:
        shape = (channels, x.shape[1] // groups, kernel, kernel)
        fan_in = shape[1] * kernel * kernel
        weight = self._weight(f'{name}.weight', shape, 0, (2 / fan_in) ** 0.5)
        offset = self._weight(f'{name}.bias', (channels,), 0, 0.1) if bias else None
        return F.conv2d(x, weight, offset, stride, kernel // 2, groups=groups)

    def bn(self, name: str, x: Tensor) -> Tensor:
        shape = (x.shape[1],)
        scale = self._weight(f'{name}.weight', shape, 1, 0.1)
        shift = self._weight(f'{name}.bias', shape, 0, 0.1)
        mean = self._weight(f'{name}.running_mean', shape, 0, 0.1)
        variance = self._weight(f'{name}.running_var', shape, 1, 0.1)
        self.weights[f'{name}.num_batches_tracked'] = torch.tensor(7)
        scale = scale / (variance + 1e-5).sqrt()
        return x * scale[:, None, None] + (shift - mean * scale)[:, None, None]

    def linear(self, name: str, x: Tensor, classes: int) -> Tensor:
        pooled = x.mean(dim=(2, 3))
        weight = self._weight(f'{name}.weight', (classes, pooled.shape[1]), 0, 0.1)
        return pooled @ weight.T + self._weight(f'{name}.bias', (classes,), 0, 0.1)


def resnet(depth: int, channels: tuple[int, ...], net: Network, x: Tensor) -> Tensor:
    x = net.bn('bn1', net.conv('conv1', x, channels[0], 3)).relu()
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            name, width = f'layer{stage}.{block}', channels[stage]
            stride = 2 if stage > 1 and block == 0 else 1
            out = net.bn(f'{name}.bn1', net.conv(f'{name}.conv1', x, width, 3, stride)).relu()
            out = net.bn(f'{name}.bn2', net.conv(f'{name}.conv2', out, width, 3))
            if stride != 1 or x.shape[1] != width:
                x = net.conv(f'{name}.downsample.0', x, width, 1, stride)
                x = net.bn(f'{name}.downsample.1', x)
            x = (x + out).relu()
    return net.linear('fc', x, 100)


def resnet50(net: Network, x: Tensor) -> Tensor:
    x = net.bn('bn1', net.conv('conv1', x, 64, 3)).relu()
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        for block in range(count):
            name, width = f'layer{stage}.{block}', 32 * 2**stage
            stride = 2 if stage > 1 and block == 0 else 1
            out = net.bn(f'{name}.bn1', net.conv(f'{name}.conv1', x, width, 1)).relu()
            out = net.bn(f'{name}.bn2', net.conv(f'{name}.conv2', out, width, 3, stride)).relu()
            out = net.bn(f'{name}.bn3', net.conv(f'{name}.conv3', out, 4 * width, 1))
            if block == 0:
                x = net.conv(f'{name}.shortcut.0', x, 4 * width, 1, stride)
                x = net.bn(f'{name}.shortcut.1', x)
            x = (x + out).relu()
    return net.linear('linear', x, 100)


def wrn(depth: int, width: int, net: Network, x: Tensor) -> Tensor:
    x = net.conv('conv1', x, 16, 3)
    for stage in (1, 2, 3):
        for block in range((depth - 4) // 6):
            name, channels = f'block{stage}.layer.{block}', 8 * 2**stage * width
            stride = 2 if stage > 1 and block == 0 else 1
            activated = net.bn(f'{name}.bn1', x).relu()
            out = net.conv(f'{name}.conv1', activated, channels, 3, stride)
            out = net.conv(f'{name}.conv2', net.bn(f'{name}.bn2', out).relu(), channels, 3)
            if x.shape[1] != channels:
                x = net.conv(f'{name}.convShortcut', activated, channels, 1, stride)
            x = x + out
    return net.linear('fc', net.bn('bn1', x).relu(), 100)


def vgg(counts: tuple[int, ...], net: Network, x: Tensor) -> Tensor:
    for block, (count, width) in enumerate(zip(counts, (64, 128, 256, 512, 512), strict=True)):
        for index in range(count):
            name = f'block{block}'
            x = net.conv(f'{name}.{3 * index}', x, width, 3, bias=True)
            x = net.bn(f'{name}.{3 * index + 1}', x).relu()
        if block < 3:
            x = F.max_pool2d(x, 2, 2)
    return net.linear('classifier', x, 100)


def mobilenet_v2_half(net: Network, x: Tensor) -> Tensor:
    x = net.bn('conv1.1', net.conv('conv1.0', x, 16, 3, 2)).relu()
    settings = ((8, 1, 1), (12, 2, 1), (16, 3, 2), (32, 4, 2), (48, 3, 1), (80, 3, 2), (160, 1, 1))
    for stage, (width, count, first_stride) in enumerate(settings):
        for block in range(count):
            name, middle = f'blocks.{stage}.{block}.conv', x.shape[1] * (6 if stage else 1)
            stride = first_stride if block == 0 else 1
            out = net.bn(f'{name}.1', net.conv(f'{name}.0', x, middle, 1)).relu()
            out = net.conv(f'{name}.3', out, middle, 3, stride, groups=middle)
            out = net.bn(f'{name}.4', out).relu()
            out = net.bn(f'{name}.7', net.conv(f'{name}.6', out, width, 1))
            x = x + out if stride == 1 and x.shape[1] == width else out
    x = net.bn('conv2.1', net.conv('conv2.0', x, 1280, 1)).relu()
    return net.linear('classifier.0', x, 100)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel i of group g goes to place i · groups + g."""
    order = torch.arange(x.shape[1]).view(groups, -1).T.flatten()
    return x[:, order]


def shufflenet_v1(net: Network, x: Tensor) -> Tensor:
    x = net.bn('bn1', net.conv('conv1', x, 24, 1)).relu()
    for stage, (width, count) in enumerate(((240, 4), (480, 8), (960, 4)), start=1):
        for unit in range(count):
            name, half = f'layer{stage}.{unit}', unit == 0
            own = width - x.shape[1] if half else width
            middle, groups = own // 4, 1 if x.shape[1] == 24 else 3
            out = net.conv(f'{name}.conv1', x, middle, 1, groups=groups)
            out = shuffle(net.bn(f'{name}.bn1', out).relu(), groups)
            out = net.conv(f'{name}.conv2', out, middle, 3, 2 if half else 1, groups=middle)
            out = net.bn(f'{name}.bn2', out).relu()
            out = net.bn(f'{name}.bn3', net.conv(f'{name}.conv3', out, own, 1, groups=3))
            x = torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], dim=1) if half else out + x
            x = x.relu()
    return net.linear('linear', x, 100)


def shufflenet_v2(net: Network, x: Tensor) -> Tensor:
    x = net.bn('bn1', net.conv('conv1', x, 24, 1)).relu()
    for stage, (width, count) in enumerate(((116, 4), (232, 8), (464, 4)), start=1):
        for unit in range(count):
            name, half = f'layer{stage}.{unit}', width // 2
            first = 3 if unit == 0 else 1
            stride = 2 if unit == 0 else 1
            if unit == 0:
                left = net.conv(f'{name}.conv1', x, x.shape[1], 3, 2, groups=x.shape[1])
                left = net.conv(f'{name}.conv2', net.bn(f'{name}.bn1', left), half, 1)
                left, right = net.bn(f'{name}.bn2', left).relu(), x
            else:
                left, right = x.split(half, dim=1)
            right = net.conv(f'{name}.conv{first}', right, half, 1)
            right = net.bn(f'{name}.bn{first}', right).relu()
            right = net.conv(f'{name}.conv{first + 1}', right, half, 3, stride, groups=half)
            right = net.bn(f'{name}.bn{first + 1}', right)
            right = net.conv(f'{name}.conv{first + 2}', right, half, 1)
            right = net.bn(f'{name}.bn{first + 2}', right).relu()
            x = shuffle(torch.cat([left, right], dim=1), 2)
    x = net.bn('bn2', net.conv('conv2', x, 1024, 1)).relu()
    return net.linear('linear', x, 100)


def mobilenet_v1(net: Network, x: Tensor) -> Tensor:
    x = net.bn('model.0.1', net.conv('model.0.0', x, 32, 3, 2)).relu()
    widths = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    for index, width in enumerate(widths, start=1):
        name, stride = f'model.{index}', 2 if index in (2, 4, 6, 12) else 1
        x = net.conv(f'{name}.0', x, x.shape[1], 3, stride, groups=x.shape[1])
        x = net.conv(f'{name}.3', net.bn(f'{name}.1', x).relu(), width, 1)
        x = net.bn(f'{name}.4', x).relu()
    return net.linear('fc', x, 1000)


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
NETWORKS: dict[str, Callable[[Network, Tensor], Tensor]] = {
    **{f'resnet{n}': partial(resnet, n, NARROW) for n in (20, 32, 56, 110)},
    **{f'resnet{n}x4': partial(resnet, n, WIDE) for n in (8, 32)},
    'resnet50': resnet50,
    **{f'wrn_{n}_{width}': partial(wrn, n, width) for n, width in ((16, 2), (40, 1), (40, 2))},
    **{
        f'vgg{sum(counts) + 3}': partial(vgg, counts)
        for counts in ((1, 1, 1, 1, 1), (2, 2, 2, 2, 2))
    },
    'mobilenet_v2': mobilenet_v2_half,
    'shufflenet_v1': shufflenet_v1,
    'shufflenet_v2': shufflenet_v2,
    'mv1': mobilenet_v1,
}
"""By the names in configs/{cifar100,imagenet}/plain_NAME.py."""


def images(name: str, batch: int = 2) -> Tensor:
    """A (B, 3, H, W) float64 batch of 32 px, or 64 px for networks that halve the size five times."""
    size = 64 if name == 'mv1' else 32
    noise = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, size, size, generator=noise, dtype=torch.float64)
