"""CRD: its banks, what it draws from them, and that they resume and stay out of the student."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import test_classifier as classifiers
import torch
import zoo
from tiny import fresh_hub, same
from torch import Tensor

from mmkd.distillers import Distiller
from mmkd.functional import crd_loss, unit_rows
from mmkd.heads import plain_weights

NUM_SAMPLES = 20
CRD = dict(type='mmkd.CRDLoss', num_samples=NUM_SAMPLES, width=8, negatives=30)
INDEX = [3, 19, 0, 7, 11, 4]


def make(**options: Any) -> Distiller:
    student, teacher = classifiers.STUDENTS['stacked'], classifiers.TEACHERS['vit']
    return classifiers.distiller(student, teacher, dict(crd=CRD | options))


def batch(model: Distiller, **metainfo: Any) -> dict[str, Any]:
    raw = classifiers.raw_batch()
    for index, sample in zip(INDEX, raw['data_samples'], strict=True):
        sample.set_metainfo(dict(sample_index=index, num_samples=NUM_SAMPLES) | metainfo)
    return model.data_preprocessor(raw, training=True)


def state(model: Distiller) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.distill['crd'].state_dict().items()}


def train(model: Distiller, optimizer: torch.optim.Optimizer, iterations: range) -> None:
    for iteration in iterations:
        fresh_hub(iter=iteration, max_iters=4, epoch=iteration, max_epochs=4)
        torch.manual_seed(0)
        optimizer.zero_grad()
        model.parse_losses(model.loss(**batch(model)))[0].backward()
        optimizer.step()


def test_each_network_is_contrasted_with_the_bank_of_the_other() -> None:
    model = make()
    before = state(model)
    before['classes'][[7, 8]] = torch.tensor([2, 4])
    model.distill['crd'].load_state_dict(before)
    steps = zoo.record_steps(model)
    losses = model.loss(**batch(model))
    (step,) = steps

    drawn = drawn_in(step)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    counted = before['classes'][drawn] != labels[:, None]
    assert not counted.all()
    pair = step.ask(model.distill['crd'].requests()[0])[0]
    loss = model.distill['crd']
    expected = torch.zeros(())
    for features, layer, bank in (
        (pair.student, loss.student_layer, before['teacher_bank']),
        (pair.teacher, loss.teacher_layer, before['student_bank']),
    ):
        expected = expected + crd_loss(layer(features), bank[INDEX], bank, drawn, 0.07, counted)
    torch.testing.assert_close(losses['loss_crd'], expected)


def drawn_in(step: Any) -> Tensor:
    """The negatives of a step: any sample but the own one."""
    del step.__dict__['shared_generator']
    drawn = torch.randint(NUM_SAMPLES - 1, (6, 30), generator=step.shared_generator)
    drawn = drawn + (drawn >= torch.tensor(INDEX)[:, None])
    assert not (drawn == torch.tensor(INDEX)[:, None]).any()
    return drawn


def test_the_gradient_reaches_the_backbone_and_both_layers() -> None:
    model = make()
    model.loss(**batch(model))['loss_crd'].backward()
    for module in (model.backbone, *list(model.distill['crd'].children())[1:]):
        gradient = zoo.gradient(module)
        assert gradient.isfinite().all()
        assert gradient.any()
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())


def test_the_banks_move_where_the_batch_is() -> None:
    model = make(momentum=0.25)
    before = state(model)
    steps = zoo.record_steps(model)
    model.loss(**batch(model))
    after, loss = state(model), model.distill['crd']
    pair = steps[0].ask(loss.requests()[0])[0]
    others = [index for index in range(NUM_SAMPLES) if index not in INDEX]
    for name, embedded in (
        ('student_bank', loss.student_layer(pair.student)),
        ('teacher_bank', loss.teacher_layer(pair.teacher)),
    ):
        expected = unit_rows(0.25 * before[name][INDEX] + 0.75 * unit_rows(embedded.detach()))
        torch.testing.assert_close(after[name][INDEX], expected)
        assert torch.equal(after[name][others], before[name][others])
    assert after['classes'][INDEX].tolist() == [0, 1, 2, 3, 4, 0]
    assert (after['classes'][others] == -1).all()
    assert after['log_means'].isfinite().all()
    assert before['log_means'].isnan().all()


def test_a_resumed_run_goes_on_with_the_same_bits_and_the_export_is_plain() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, range(2))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, range(2, 4))

    resumed = make()
    other = torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    train(resumed, other, range(2, 4))
    assert same(resumed.state_dict(), model.state_dict())
    assert not same(state(resumed), {key[12:]: saved[0][key] for key in saved[0] if 'crd' in key})

    plain = plain_weights(model.student, saved[0])
    assert all(key.startswith('distill.crd.') for key in saved[0].keys() - plain.keys())
    assert plain.keys() == {key for key in saved[0] if not key.startswith('distill.')}


def test_data_samples_that_do_not_say_which_they_are_are_refused() -> None:
    with pytest.raises(ValueError, match=r'train_dataloader\.dataset: .*SeededViews'):
        classifiers.take_step(make())


def test_another_number_of_samples_is_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match=r'CRDLoss\.num_samples'):
        model.loss(**batch(model, num_samples=NUM_SAMPLES + 1))


@pytest.mark.parametrize(
    'options',
    [
        dict(num_samples=1),
        dict(width=0),
        dict(negatives=0.5),
        dict(momentum=1),
        dict(temperature=0),
        dict(at=['neck', 'pre_logits']),
    ],
    ids=lambda options: next(iter(options)),
)
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf'losses\.crd\.{next(iter(options))}'):
        make(**options)
