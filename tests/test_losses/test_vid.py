"""VID on the stages of classifiers and the necks of detectors."""

from __future__ import annotations

from typing import Any

import pytest
import test_classifier as classifiers
import torch
import torch.nn.functional as F
import zoo

from mmkd.functional import vid_loss

STAGES = ['backbone.layer1', 'backbone.layer2']


def test_networks_predict_the_teachers_stages() -> None:
    loss = dict(type='mmkd.VIDLoss', at=STAGES)
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'], classifiers.TEACHERS['linear'], dict(vid=loss)
    )
    values, step = classifiers.take_step(model)
    pairs = [pair for answer in step.answers.values() for pair in answer]
    parts = model.distill['vid']
    expected = sum(
        vid_loss(network(pair.student), pair.teacher, torch.full((width,), 5.0))
        for pair, network, width in zip(pairs, parts.connectors.values(), (16, 32), strict=True)
    )
    torch.testing.assert_close(values['loss_vid'], expected, rtol=1e-4, atol=1e-4)
    classifiers.assert_reaches_backbone(model, values['loss_vid'])
    for parameter in parts.parameters():
        assert parameter.grad.any()


def test_variances_are_the_softplus_of_what_is_trained(distil: Any, gradient_of_step: Any) -> None:
    model = distil('retinanet', type='mmkd.VIDLoss', strides=[8])
    with torch.no_grad():
        (numbers,) = model.distill['tested'].softplus_inverses
        numbers.copy_(torch.linspace(-4, 4, len(numbers)))
    steps = zoo.record_steps(model)
    value, _ = gradient_of_step(model)
    pair = next(iter(steps[0].answers.values()))[0]
    (network,) = model.distill['tested'].connectors.values()
    expected = vid_loss(network(pair.student), pair.teacher, F.softplus(numbers) + 1e-5)
    assert value == pytest.approx(expected.item(), rel=1e-5)


def test_necks_of_equal_width_have_networks_too_and_the_student_is_without_them(
    distil: Any,
) -> None:
    model, plain = distil('retinanet', type='mmkd.VIDLoss'), distil('retinanet')
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    added = state.keys() - plain.state_dict().keys()
    assert len(added) == 5 * (4 + 1)
    assert all(key.startswith('distill.tested.') for key in added)


@pytest.mark.parametrize('variance', [0, -1.0, 'much'])
def test_an_initial_variance_that_is_not_positive_is_an_error(variance: Any) -> None:
    with pytest.raises(ValueError, match=r'vid\.initial_variance: .* is not a positive number'):
        classifiers.distiller(
            classifiers.STUDENTS['linear'],
            classifiers.TEACHERS['linear'],
            dict(vid=dict(type='mmkd.VIDLoss', initial_variance=variance)),
        )
