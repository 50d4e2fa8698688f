from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmkd.connectors import ConvConnector
from mmkd.registry import CONNECTORS, build

MAPS = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))


def test_is_a_convolution_of_the_maps_size():
    connector = build(
        CONNECTORS,
        dict(type='mmkd.ConvConnector', in_channels=3, out_channels=4, kernel_size=3),
        where='connector',
    )

    expected = F.conv2d(MAPS, connector.conv.weight, connector.conv.bias, padding=1)

    assert expected.shape == (2, 4, 5, 7)
    torch.testing.assert_close(connector(MAPS), expected)


def test_normalises_if_wanted():
    connector = ConvConnector(3, 4, norm=True)

    output = connector(MAPS)

    assert connector.conv.bias is None
    torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    variance = output.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(variance, torch.ones(4), rtol=0, atol=1e-3)


@pytest.mark.parametrize('size', [0, 2])
def test_an_even_kernel_is_an_error(size):
    with pytest.raises(ValueError, match=rf'ConvConnector\.kernel_size: {size}'):
        ConvConnector(3, 4, kernel_size=size)


def test_is_a_linear_layer_of_pooled_features():
    connector = ConvConnector(3, 4)
    rows = MAPS[:, :, 0, 0]
    expected = F.linear(rows, connector.conv.weight[..., 0, 0], connector.conv.bias)
    torch.testing.assert_close(connector(rows), expected)
