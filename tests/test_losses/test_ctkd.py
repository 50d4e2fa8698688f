"""CTKD: its temperature is trained, resumed and left out of the exported student."""

from __future__ import annotations

import copy

import pytest
import test_classifier as classifiers
import torch
from tiny import fresh_hub, same

from mmkd.distillers import Distiller
from mmkd.functional import kd_loss
from mmkd.heads import plain_weights

CTKD = dict(type='mmkd.CTKDLoss', curriculum=dict(type='CosineWarmup', end=2))
KEY = 'distill.ctkd.raw_temperature'


def make() -> Distiller:
    return classifiers.distiller(
        classifiers.STUDENTS['linear'], classifiers.TEACHERS['linear'], dict(ctkd=CTKD)
    )


def train(model: Distiller, optimizer: torch.optim.Optimizer, iterations: range) -> None:
    for iteration in iterations:
        fresh_hub(iter=iteration, max_iters=4, epoch=iteration, max_epochs=4)
        losses, _ = classifiers.take_step(model)
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()


def test_it_is_kd_at_the_temperature_of_the_start() -> None:
    losses, step = classifiers.take_step(make())
    expected = kd_loss(*classifiers.logits_of(step), 1 + 20 * torch.ones(()).sigmoid().item())
    torch.testing.assert_close(losses['loss_ctkd'], expected)


def test_the_temperature_learns_to_raise_the_loss_as_the_curriculum_allows() -> None:
    gradients = []
    for epoch in range(3):
        fresh_hub(iter=epoch, max_iters=4, epoch=epoch, max_epochs=4)
        model = make()
        losses, _ = classifiers.take_step(model)
        losses['loss_ctkd'].backward()
        gradients.append(model.get_parameter(KEY).grad.clone())
    assert gradients[0] == 0
    torch.testing.assert_close(gradients[1], gradients[2] / 2)

    raw = model.get_parameter(KEY)
    with torch.no_grad():
        raw -= 0.1 * gradients[2].sign()
    harder, _ = classifiers.take_step(model)
    assert harder['loss_ctkd'] > losses['loss_ctkd']


def test_a_resumed_run_goes_on_with_the_same_bits_and_the_export_is_plain() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    assert saved[0][KEY] != 1
    train(model, optimizer, range(3, 4))

    resumed = make()
    other = torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    train(resumed, other, range(3, 4))
    assert same(resumed.state_dict(), model.state_dict())

    plain = plain_weights(model.student, saved[0])
    assert saved[0].keys() - plain.keys() == {KEY}


def test_a_wrong_curriculum_is_named() -> None:
    with pytest.raises((ValueError, TypeError), match='curriculum'):
        classifiers.distiller(
            classifiers.STUDENTS['linear'],
            classifiers.TEACHERS['linear'],
            dict(ctkd=CTKD | dict(curriculum=-1.0)),
        )
