"""MGDLoss hides cells by the step's own random numbers and trains a generation block per level."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import zoo

from mmkd.functional import mgd_loss
from mmkd.functional.mgd import hide_cells
from mmkd.heads import plain_weights
from mmkd.losses import MGDLoss
from mmkd.structures import Features

CLASSES = 4
DATA = zoo.batch(num_classes=CLASSES)


@pytest.fixture(scope='module')
def pair() -> Any:
    return zoo.pair('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', bbox_head__num_classes=CLASSES)


def test_the_teachers_maps_are_generated_from_masked_ones(pair: Any) -> None:
    model = zoo.distiller(*pair, dict(mgd=dict(type='mmkd.MGDLoss', mask_ratio=0.5)))
    steps = zoo.record_steps(model)
    value = zoo.one_step(model, DATA, of='loss_mgd')['loss_mgd']
    step = steps[0]
    loss = model.distill['mgd']
    del step.__dict__['generator']  # from its beginning
    expected = [
        mgd_loss(generate(hide_cells(each.student, 0.5, step.generator)), each.teacher)
        for each, generate in zip(step.ask(Features()), loss.generators, strict=True)
    ]
    torch.testing.assert_close(value, sum(expected))
    for part in (model.student.backbone, loss.generators):
        assert zoo.gradient(part).isfinite().all()
        assert zoo.gradient(part).any()
    own = {key for key in model.state_dict() if key.startswith('distill.')}
    assert len(own) == 5 * 4
    assert all(key.startswith('distill.mgd.generators.') for key in own)


def test_the_students_random_numbers_are_as_without(pair: Any) -> None:
    states = []
    for losses in ({}, dict(mgd=dict(type='mmkd.MGDLoss'))):
        model = zoo.distiller(*pair, losses)
        zoo.one_step(model, DATA)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_wrong_share_is_named() -> None:
    with pytest.raises(ValueError, match=r'MGDLoss\.mask_ratio: 1\.5'):
        MGDLoss(mask_ratio=1.5)


@pytest.mark.parametrize('kind', ['MGDLoss', 'FGDLoss', 'FGFILoss'])
def test_what_is_trained_comes_back_from_a_checkpoint_and_leaves_a_plain_student(
    pair: Any, kind: str
) -> None:
    losses = dict(tested=dict(type=f'mmkd.{kind}'))
    model = zoo.distiller(*pair, losses)
    for parameter in model.distill.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = copy.deepcopy(model.state_dict())
    other = zoo.distiller(*pair, losses)
    before, value = (zoo.one_step(each, DATA)['loss_tested'] for each in (other, model))
    other.load_state_dict(state, strict=True)
    resumed = zoo.one_step(other, DATA)['loss_tested']
    assert torch.equal(value, resumed)
    assert not torch.equal(value, before)
    plain = zoo.distiller(*pair, {}).student
    assert plain_weights(plain, state).keys() == plain.state_dict().keys()
