"""FitNet on a stage and on the pooled features of classifiers."""

from __future__ import annotations

from typing import Any

import pytest
import test_classifier as classifiers
import torch
import zoo

from mmkd.functional import fitnet_loss


@pytest.mark.parametrize('at', ['backbone.layer2', 'pre_logits'])
def test_a_thinner_student_is_compared_behind_a_layer(at: str) -> None:
    loss = dict(type='mmkd.FitNetLoss', at=at, connector=dict(type='mmkd.ConvConnector'))
    model, values, step = taken(fitnet=loss)
    ((pair,),) = step.answers.values()
    (layer,) = model.distill['fitnet'].connectors.values()
    expected = fitnet_loss(layer(pair.student), pair.teacher)
    torch.testing.assert_close(values['loss_fitnet'], expected)
    classifiers.assert_reaches_backbone(model, values['loss_fitnet'])
    assert zoo.gradient(layer).any()


def test_the_layer_is_no_part_of_the_student() -> None:
    loss = dict(
        type='mmkd.FitNetLoss', at='backbone', connector=dict(type='mmkd.ConvConnector', norm=True)
    )
    model, *_ = taken(fitnet=loss)
    plain, *_ = taken()
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert added
    assert all(key.startswith('distill.fitnet.connectors.0.') for key in added)
    assert model.student.state_dict().keys() >= plain.student.state_dict().keys()


def taken(**losses: Any) -> Any:
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'], classifiers.TEACHERS['linear'], losses
    )
    return (model, *classifiers.take_step(model)) if losses else (model,)
