"""Batch norm that takes a single value per channel."""

from __future__ import annotations

import torch
from torch import nn

from mmkd.connectors import ConvConnector, TolerantBatchNorm2d

MAPS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_it_is_pytorchs_batch_norm_and_has_its_names() -> None:
    ours, theirs = TolerantBatchNorm2d(3), nn.BatchNorm2d(3)
    for _ in range(3):
        assert torch.equal(ours(MAPS), theirs(MAPS))
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert torch.equal(ours.eval()(MAPS[:1, :, :1, :1]), theirs.eval()(MAPS[:1, :, :1, :1]))


def test_a_single_value_per_channel_is_normalised_by_what_was_seen_before() -> None:
    norm = TolerantBatchNorm2d(3)
    norm(MAPS + 5)
    state = {key: value.clone() for key, value in norm.state_dict().items()}
    value = MAPS[:1, :, :1, :1].clone().requires_grad_()
    output = norm(value)
    expected = (value - state['running_mean'].view(1, 3, 1, 1)) / (
        state['running_var'].view(1, 3, 1, 1) + norm.eps
    ).sqrt()
    torch.testing.assert_close(output, expected)
    assert all(torch.equal(norm.state_dict()[key], before) for key, before in state.items())
    output.sum().backward()
    assert value.grad.all()
    assert norm.bias.grad.all()


def test_a_connector_with_a_norm_takes_one_image_of_one_cell() -> None:
    assert ConvConnector(3, 5, norm=True)(MAPS[:1, :, :1, :1]).shape == (1, 5, 1, 1)
