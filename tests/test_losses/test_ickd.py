"""ICKD on the last stage of classifiers."""

from __future__ import annotations

import test_classifier as classifiers
import torch

from mmkd.functional import ickd_loss


def test_it_compares_the_channels_of_the_last_stage_behind_a_connector() -> None:
    loss = dict(
        type='mmkd.ICKDLoss', at='backbone', connector=dict(type='mmkd.ConvConnector', norm=True)
    )
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'], classifiers.TEACHERS['linear'], dict(ickd=loss)
    )
    values, step = classifiers.take_step(model)
    ((pair,),) = step.answers.values()
    (layer,) = model.distill['ickd'].connectors.values()
    expected = ickd_loss(layer(pair.student), pair.teacher)
    assert expected > 0
    torch.testing.assert_close(values['loss_ickd'], expected)
    classifiers.assert_reaches_backbone(model, values['loss_ickd'])
