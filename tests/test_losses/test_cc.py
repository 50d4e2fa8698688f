"""CC on what the class layers read."""

from __future__ import annotations

import pytest
import test_classifier as classifiers
import torch
import zoo

from mmkd.functional import cc_loss

CC = dict(type='mmkd.CCLoss', connector=dict(type='mmkd.ConvConnector'))


def test_a_linear_layer_brings_the_features_to_the_teachers_width() -> None:
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'], classifiers.TEACHERS['linear'], dict(cc=CC)
    )
    values, step = classifiers.take_step(model)
    ((pair,),) = step.answers.values()
    (layer,) = model.distill['cc'].connectors.values()
    connected = pair.student @ layer.conv.weight[..., 0, 0].T + layer.conv.bias
    torch.testing.assert_close(values['loss_cc'], cc_loss(connected, pair.teacher))
    classifiers.assert_reaches_backbone(model, values['loss_cc'])
    assert zoo.gradient(layer).any()


def test_features_of_other_width_need_it() -> None:
    with pytest.raises(ValueError, match=r'CCLoss: .* has 64 channels, .* 128: set connector='):
        classifiers.distiller(
            classifiers.STUDENTS['linear'],
            classifiers.TEACHERS['linear'],
            dict(cc=dict(type='mmkd.CCLoss')),
        )
