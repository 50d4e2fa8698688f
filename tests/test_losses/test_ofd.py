"""OFD on the stages of classifiers, before their last ReLU."""

from __future__ import annotations

import test_classifier as classifiers
import torch
import zoo

from mmkd.functional import ofd_loss

AT = [f'backbone.layer{stage}.before_relu' for stage in (2, 3, 4)]


def test_shallower_stages_count_half_behind_a_layer_with_batch_norm() -> None:
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'],
        classifiers.TEACHERS['linear'],
        dict(ofd=dict(type='mmkd.OFDLoss', at=AT)),
    )
    for parameter in model.teacher.model.backbone.parameters():  # untrained residuals are 0
        torch.nn.init.normal_(parameter, std=0.1)
    values, step = classifiers.take_step(model)
    pairs = [pair for answer in step.answers.values() for pair in answer]
    assert [(pair.student < 0).any().item() for pair in pairs] == [True] * 3
    assert [(pair.teacher < 0).any().item() for pair in pairs] == [True] * 3
    layers = model.distill['ofd'].connectors
    expected = sum(
        weight * ofd_loss(layer(pair.student), pair.teacher)
        for pair, layer, weight in zip(pairs, layers.values(), (0.25, 0.5, 1.0), strict=True)
    )
    torch.testing.assert_close(values['loss_ofd'], expected)
    classifiers.assert_reaches_backbone(model, values['loss_ofd'])
    assert zoo.gradient(layers).any()


def test_a_share_of_the_gradient_is_measured_where_it_reads() -> None:
    share = dict(type='mmkd.GradientShare', share=0.2)
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'],
        classifiers.TEACHERS['linear'],
        dict(ofd=dict(type='mmkd.OFDLoss', at=AT[:1], weight=share)),
    )
    assert classifiers.take_step(model)[0]['loss_ofd'] > 0
