"""Losses that are not finite raise, those that never do anything warn."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from mmengine.logging import MMLogger

from mmkd.distillers.watch import LossWatch
from mmkd.structures import TEACHER, FeaturePair, Features, Progress, Sources, Step

NOTHING_ASKED = Step(torch.zeros(0), [], {}, Sources({}))


def check(watch: LossWatch, name: str, value: torch.Tensor, at: Progress) -> None:
    watch.check(f'loss_{name}', value, at, NOTHING_ASKED)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Warnings that MMEngine's current logger gets from now on."""
    logger = MMLogger.get_current_instance()
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Keep(level=logging.WARNING)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def progress(iteration: int, per_epoch: int = 2, max_epochs: int = 3) -> Progress:
    return Progress(iteration, iteration / per_epoch, per_epoch * max_epochs, max_epochs)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
def test_a_loss_that_is_not_finite_is_named_with_the_iteration(value: float) -> None:
    message = (
        re.escape(f'loss_ckd is {value} at iteration 5 (epoch 2)') + '.*student.*learning rate'
    )
    with pytest.raises(FloatingPointError, match=message):
        check(LossWatch(), 'ckd', torch.tensor(value), progress(5))


def test_under_a_gradient_scaler_it_is_left_to_that(warnings: list[str]) -> None:
    with torch.autocast('cpu', dtype=torch.float16):
        check(LossWatch(), 'ckd', torch.tensor(torch.inf), progress(0))
    assert len(warnings) == 1
    assert 'loss_ckd is inf at iteration 0' in warnings[0]
    assert 'gradient scaler' in warnings[0]


def test_bfloat16_has_no_gradient_scaler() -> None:
    with (
        torch.autocast('cpu', dtype=torch.bfloat16),
        pytest.raises(FloatingPointError, match='loss_ckd is inf'),
    ):
        check(LossWatch(), 'ckd', torch.tensor(torch.inf), progress(0))


def test_zero_for_a_whole_epoch_warns_once_for_each_epoch(warnings: list[str]) -> None:
    watch = LossWatch()
    for iteration in range(6):
        check(watch, 'ckd', torch.tensor(0.0), progress(iteration))
        check(watch, 'alive', torch.tensor(float(iteration % 2)), progress(iteration))
    assert [re.findall(r'loss_\w+|epoch \d', message) for message in warnings] == [
        ['loss_ckd', f'epoch {epoch}'] for epoch in range(3)
    ]


def test_the_only_epoch_of_a_run_counts(warnings: list[str]) -> None:
    watch = LossWatch()
    for iteration in range(2):
        check(watch, 'ckd', torch.tensor(0.0), progress(iteration, max_epochs=1))
    assert len(warnings) == 1
    assert 'every step of iterations 0 to 1:' in warnings[0]


def test_an_epoch_that_ends_without_the_loss_is_reported_with_the_next(warnings: list[str]) -> None:
    """The weight falls to 0 within epoch 0: the loss is not computed in its last step."""
    watch = LossWatch()
    check(watch, 'ckd', torch.tensor(0.0), progress(0))
    assert warnings == []
    check(watch, 'other', torch.tensor(1.0), progress(2))
    assert len(warnings) == 1
    assert 'epoch 0' in warnings[0]


def test_a_loss_that_is_seldom_zero_is_fine(warnings: list[str]) -> None:
    watch = LossWatch()
    for iteration, value in enumerate([0.0, 1e-30, 0.5, 0.0]):
        check(watch, 'ckd', torch.tensor(value), progress(iteration))
    assert warnings == []


def test_a_run_that_counts_iterations_is_told_every_thousand(warnings: list[str]) -> None:
    watch = LossWatch()
    for iteration in range(2000):
        value = torch.tensor(float(iteration >= 1000))
        check(watch, 'ckd', value, progress(iteration, per_epoch=5000, max_epochs=1))
    assert len(warnings) == 1
    assert 'loss_ckd was exactly 0 in every step of iterations 0 to 999' in warnings[0]


def test_a_teacher_that_is_not_finite_is_named_as_the_cause() -> None:
    teacher = torch.zeros(2, 3, 4, 4)
    teacher[0, 1, 2, 3] = torch.nan

    class Source:
        taps: ClassVar[dict[str, str]] = {}

        def answer(self, request: Any, step: Step) -> list[FeaturePair]:
            return [FeaturePair(0, 8, torch.zeros(2, 3, 4, 4), teacher)]

    step = Step(torch.zeros(0), [], {}, Sources({Features(): Source()}))
    step.ask(Features())
    message = rf"loss_pkd is nan at iteration 5.*'{TEACHER}' \(Features 0\).* 1 of 2 samples.*teacher\.checkpoint"
    with pytest.raises(FloatingPointError, match=message):
        LossWatch().check('loss_pkd', torch.tensor(torch.nan), progress(5), step)
