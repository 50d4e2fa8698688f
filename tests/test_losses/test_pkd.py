"""PKDLoss hands every level to the function."""

from __future__ import annotations

from typing import Any

import asks
import pytest
import torch

from mmkd.functional import pkd_loss
from mmkd.losses import PKDLoss
from mmkd.structures import FeaturePair


def test_the_value_is_the_functions_on_all_levels() -> None:
    noise = torch.Generator().manual_seed(0)
    maps = [[torch.randn(2, 3, size, size, generator=noise) for size in (8, 4)] for _ in range(2)]

    pairs = [FeaturePair(n, 8 << n, *pair) for n, pair in enumerate(zip(*maps, strict=True))]
    value = asks.on_features(PKDLoss(weight=6), pairs)
    torch.testing.assert_close(value, pkd_loss(*maps))
    assert value > 0


def test_equal_features_give_zero() -> None:
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    value = asks.on_features(PKDLoss(), [FeaturePair(0, 8, features, features * 3 + 1)])
    assert value < 1e-5


def test_it_trains_the_backbone_of_a_detector(distil: Any, gradient_of_step: Any) -> None:
    value, gradient = gradient_of_step(distil('retinanet', type='mmkd.PKDLoss'))
    assert value > 0
    assert torch.isfinite(gradient).all()
    assert gradient.any()


def wider(**losses: Any) -> Any:
    """A RetinaNet whose teacher's neck has 48 channels in the place of 32."""
    from zoo import distiller, pair

    student, teacher = pair('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    teacher.neck.out_channels = teacher.bbox_head.in_channels = 48
    return distiller(student, teacher, losses)


CONNECTED = dict(type='mmkd.PKDLoss', connector=dict(type='mmkd.ConvConnector'))


def test_necks_of_other_width_need_a_connector() -> None:
    with pytest.raises(
        ValueError, match=r"PKDLoss: .* has 32 channels, the teacher's 48: set connector=dict\(type"
    ):
        wider(pkd=dict(type='mmkd.PKDLoss'))


def test_a_connector_per_level_brings_the_students_maps_to_the_teachers_width() -> None:
    from zoo import batch, gradient, one_step, record_steps

    model = wider(pkd=CONNECTED)
    plain = wider()
    assert model.state_dict().keys() - plain.state_dict().keys() == {
        f'distill.pkd.connectors.{level}.conv.{name}'
        for level in range(5)
        for name in ('weight', 'bias')
    }
    steps = record_steps(model)
    losses = one_step(model, batch(), of='loss_pkd')
    pairs = asks.feature_pairs(steps[0])
    assert [pair.student.shape[1] for pair in pairs] == [32] * 5
    connected = [
        torch.einsum('bchw,oc->bohw', pair.student, layer.conv.weight[..., 0, 0])
        + layer.conv.bias.view(1, -1, 1, 1)
        for pair, layer in zip(pairs, model.distill['pkd'].connectors.values(), strict=True)
    ]
    torch.testing.assert_close(
        losses['loss_pkd'], pkd_loss(connected, [pair.teacher for pair in pairs])
    )
    for part in (model.student.backbone, model.distill['pkd'].connectors):
        assert gradient(part).isfinite().all()
        assert gradient(part).any()


def test_necks_of_equal_width_need_none(distil: Any) -> None:
    model = distil('retinanet', **CONNECTED)
    assert not list(model.distill.parameters())
    with pytest.raises(ValueError, match=r'PKDLoss\.connector: .* did you mean ConvConnector'):
        distil('retinanet', **CONNECTED | dict(connector=dict(type='mmkd.ConvConector')))


def test_levels_may_be_chosen_by_stride() -> None:
    from zoo import batch, one_step, record_steps

    model = wider(pkd=CONNECTED | dict(strides=[16, 64]))
    assert list(model.distill['pkd'].connectors) == ['1', '3']
    steps = record_steps(model)
    losses = one_step(model, batch())
    chosen = [asks.feature_pairs(steps[0])[level] for level in (1, 3)]
    connected = [
        layer(pair.student)
        for pair, layer in zip(chosen, model.distill['pkd'].connectors.values(), strict=True)
    ]
    expected = pkd_loss(connected, [pair.teacher for pair in chosen])
    torch.testing.assert_close(losses['loss_pkd'], expected)


@pytest.mark.parametrize('strides', [[4, 8], []])
def test_strides_that_no_level_has_are_an_error(strides: list[int]) -> None:
    with pytest.raises(ValueError, match=r'PKDLoss\.strides: .* of stride \[8, 16, 32, 64, 128\]'):
        wider(pkd=CONNECTED | dict(strides=strides))
