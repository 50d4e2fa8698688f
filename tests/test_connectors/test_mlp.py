from __future__ import annotations

import torch

from mmkd.connectors import MLPConnector

MAPS = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))


def test_is_three_linear_layers_of_every_cell():
    connector = MLPConnector(3, 4)
    first, second, third = (
        (layer.weight[..., 0, 0], layer.bias)
        for layer in connector.layers
        if layer.__class__.__name__ == 'Conv2d'
    )
    assert (first[1], second[1]) == (None, None)
    cells = MAPS.permute(0, 2, 3, 1)
    hidden = ((cells @ first[0].T).relu() @ second[0].T).relu()
    expected = (hidden @ third[0].T + third[1]).permute(0, 3, 1, 2)
    torch.testing.assert_close(connector(MAPS), expected)
    torch.testing.assert_close(connector(MAPS[..., 2, 3]), expected[..., 2, 3])
