"""Schedules against values worked out by hand, and as pure functions of what MMEngine's MessageHub says."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
from mmengine.logging import MessageHub

from mmkd.losses import (
    Chain,
    Constant,
    CosineDecay,
    CosineWarmup,
    LinearWarmup,
    Steps,
    Stop,
    build_schedule,
)
from mmkd.losses.schedules import is_over
from mmkd.structures import Progress
from mmkd.structures.progress import _warn_once

_names = itertools.count()


def at(epoch: float, iterations_per_epoch: int = 10, max_epochs: int = 8) -> Progress:
    return Progress(
        iteration=round(epoch * iterations_per_epoch),
        epoch=epoch,
        max_iterations=max_epochs * iterations_per_epoch,
        max_epochs=max_epochs,
    )


def hub(**info: Any) -> None:
    """A fresh message hub, current from now on, as a new run makes one."""
    fresh = MessageHub.get_instance(f'test_schedules_{next(_names)}')
    for key, value in info.items():
        fresh.update_info(key, value)


@pytest.mark.parametrize(
    ('schedule', 'values'),
    [
        (Constant(0.3), {0: 0.3, 8: 0.3}),
        (LinearWarmup(end=4), {0: 0, 1: 0.25, 2.5: 0.625, 4: 1, 7: 1}),
        (LinearWarmup(value=2, begin=2, end=4), {0: 0, 2: 0, 3: 1, 4: 2, 8: 2}),
        (LinearWarmup(end=40, by_epoch=False), {0: 0, 1: 0.25, 4: 1}),
        (LinearWarmup(), {0: 0, 4: 0.5, 8: 1}),
        (LinearWarmup(begin=3, end=3), {0: 0, 2.9: 0, 3: 1, 4: 1}),
        (
            CosineDecay(value=2, begin=2, end=6),
            {0: 2, 2: 2, 3: 1 + math.sqrt(0.5), 4: 1, 6: 0, 8: 0},
        ),
        (CosineDecay(), {0: 1, 4: 0.5, 8: 0}),
        (CosineWarmup(value=2, begin=2, end=6), {0: 0, 3: 1 - math.sqrt(0.5), 4: 1, 6: 2, 8: 2}),
        (Stop(at=3, value=0.5), {0: 0.5, 2.9: 0.5, 3: 0, 8: 0}),
        (Stop(at=30, by_epoch=False), {2.9: 1, 3: 0}),
        (Steps(milestones=[2, 5], gamma=0.5, value=4), {0: 4, 1.9: 4, 2: 2, 5: 1, 8: 1}),
        (Steps(milestones=[20], by_epoch=False), {1.9: 1, 2: 0.1}),
        (
            Chain([dict(type='LinearWarmup', end=2), dict(type='Stop', at=6), 3]),
            {1: 1.5, 2: 3, 6: 0},
        ),
    ],
)
def test_values(schedule: Any, values: dict[float, float]) -> None:
    for epoch, value in values.items():
        assert schedule(at(epoch)) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize('name', ['LinearWarmup', 'CosineDecay'])
def test_an_end_before_the_begin_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf'{name}: end=2 is before begin=5: swap them'):
        build_schedule(dict(type=name, begin=5, end=2), 'CKDLoss.weight')


@pytest.mark.parametrize(('by_epoch', 'end'), [(True, '8 epochs'), (False, '80 iterations')])
def test_a_begin_after_the_end_of_training_is_refused(by_epoch: bool, end: str) -> None:
    schedule = LinearWarmup(begin=100, by_epoch=by_epoch)
    with pytest.raises(
        ValueError, match=f'begin=100 is after the end of training, which has {end}'
    ):
        schedule(at(0))


def test_a_schedule_until_the_end_needs_a_run() -> None:
    with pytest.raises(RuntimeError, match='set `end`'):
        LinearWarmup()(Progress())


def test_milestones_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r'milestones=\[5, 2\] are not in ascending order'):
        Steps(milestones=[5, 2])


def test_a_number_a_config_and_a_schedule_are_all_weights() -> None:
    assert build_schedule(2, 'here') == Constant(2.0)
    assert build_schedule(dict(type='mmkd.Stop', at=1), 'here') == Stop(at=1)
    warmup = LinearWarmup(end=1)
    assert build_schedule(warmup, 'here') is warmup


@pytest.mark.parametrize('weight', ['1.0', None, [1.0]])
def test_what_is_no_weight_is_refused(weight: Any) -> None:
    with pytest.raises(TypeError, match=r'CKDLoss\.weight:'):
        build_schedule(weight, 'CKDLoss.weight')


def test_an_unknown_schedule_says_where_and_suggests() -> None:
    with pytest.raises(ValueError, match=r'CKDLoss\.weight: .*did you mean LinearWarmup'):
        build_schedule(dict(type='LinearWarmUps', end=1), 'CKDLoss.weight')


def test_outside_of_a_run_progress_is_the_start() -> None:
    hub()
    assert Progress.current() == Progress(0, 0.0, None, None)


@pytest.mark.parametrize('iteration', [0, 7, 20, 29])
def test_progress_is_what_the_hub_says_fractions_of_an_epoch_included(iteration: int) -> None:
    hub(iter=iteration, epoch=iteration // 10, max_iters=30, max_epochs=3)
    progress = Progress.current()
    assert progress.iteration == iteration
    assert progress.epoch == iteration / 10
    assert progress.length(by_epoch=True) == 3
    assert progress.length(by_epoch=False) == 30


def every_kind(unit: int, by_epoch: bool) -> list[dict[str, Any]]:
    """A schedule of each kind, with points of training in units of a tenth of an epoch."""
    warmup = dict(type='LinearWarmup', end=1 * unit, by_epoch=by_epoch)
    stop = dict(type='Stop', at=2 * unit, by_epoch=by_epoch)
    return [
        dict(type='Constant', value=0.5),
        warmup,
        dict(type='CosineDecay', begin=1 * unit, end=2 * unit, by_epoch=by_epoch),
        dict(type='CosineDecay', by_epoch=by_epoch),
        dict(type='Steps', milestones=[1 * unit, 2 * unit], by_epoch=by_epoch),
        stop,
        dict(type='Chain', schedules=[warmup, stop, 3]),
    ]


def follow(config: dict[str, Any], iterations: range) -> list[float]:
    """The weight in each iteration of a run of 3 epochs of 10, from a schedule that is built for it."""
    schedule = build_schedule(config, 'here')
    seen = []
    for iteration in iterations:
        hub(iter=iteration, epoch=iteration // 10, max_iters=30, max_epochs=3)
        seen.append(schedule(Progress.current()))
    return seen


@pytest.mark.parametrize(
    ('by_epoch', 'by_iteration'),
    list(zip(every_kind(1, by_epoch=True), every_kind(10, by_epoch=False), strict=True)),
    ids=lambda config: config['type'],
)
def test_epochs_and_iterations_are_two_units_of_the_same(
    by_epoch: dict[str, Any], by_iteration: dict[str, Any]
) -> None:
    weights = follow(by_epoch, range(30))
    assert weights == pytest.approx(follow(by_iteration, range(30)), abs=1e-12)
    assert (len(set(weights)) == 1) is (by_epoch['type'] == 'Constant')


@pytest.mark.parametrize('stopped_after', [1, 9, 10, 13, 20, 29])
@pytest.mark.parametrize(
    'config', every_kind(1, by_epoch=True) + every_kind(10, by_epoch=False), ids=lambda c: c['type']
)
def test_a_resumed_run_gets_the_weights_of_one_that_never_stopped(
    config: dict[str, Any], stopped_after: int
) -> None:
    """No state: a new schedule in a new process, told the same iteration, gives the same weight."""
    parts = range(stopped_after), range(stopped_after, 30)
    assert follow(config, range(30)) == follow(config, parts[0]) + follow(config, parts[1])


@pytest.mark.parametrize(
    ('schedule', 'over_from'),
    [
        (Constant(0.5), None),
        (Constant(0.0), 0),
        (LinearWarmup(end=4), None),
        (LinearWarmup(value=0.0, end=4), 0),
        (CosineDecay(begin=2, end=6), 6),
        (CosineDecay(begin=20, end=60, by_epoch=False), 6),
        (CosineDecay(), 8),
        (Stop(at=3), 3),
        (Stop(at=30, by_epoch=False), 3),
        (Steps(milestones=[2, 5], gamma=0.5), None),
        (Steps(milestones=[2, 5], gamma=0), 2),
        (Steps(milestones=[20, 50], gamma=0, by_epoch=False), 2),
        (Chain([dict(type='LinearWarmup', begin=1, end=2), 2]), None),
        (Chain([dict(type='LinearWarmup', begin=4, end=5), dict(type='Stop', at=6)]), 6),
        (Chain([dict(type='CosineDecay', end=7), dict(type='Stop', at=50, by_epoch=False)]), 5),
        (lambda progress: 0.0, None),
    ],
)
def test_from_where_on_a_weight_is_0_for_ever(schedule: Any, over_from: float | None) -> None:
    """A warm-up that has not begun is 0 too, and not over."""
    for tenths in range(81):
        progress = at(tenths / 10)
        over = over_from is not None and tenths / 10 >= over_from
        assert is_over(schedule, progress) is over
        assert not over or schedule(progress) == 0


def test_the_last_iteration_of_each_epoch_is_known() -> None:
    ends = [
        iteration
        for iteration in range(12)
        if Progress(iteration, iteration / 4, max_iterations=12, max_epochs=3).ends_epoch
    ]
    assert ends == [3, 7, 11]
    assert not Progress(iteration=3).ends_epoch


@pytest.mark.parametrize(
    'weight',
    [
        -1.0,
        math.nan,
        math.inf,
        dict(type='Stop', at=1, value=-2.0),
        dict(type='Constant', value='1'),
    ],
)
def test_a_weight_is_finite_and_not_negative(weight: Any) -> None:
    with pytest.raises(ValueError, match=r'losses\.ckd\.weight:'):
        build_schedule(weight, 'losses.ckd.weight')


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings of schedules, none of which was told before."""
    texts: list[str] = []
    monkeypatch.setattr('mmkd.structures.progress.print_log', lambda text, *_: texts.append(text))
    _warn_once.cache_clear()
    return texts


@pytest.mark.parametrize(
    'schedule', [LinearWarmup(end=17), CosineDecay(end=17), Stop(at=17), Steps(milestones=[3, 17])]
)
def test_epochs_that_never_come_are_told_once(schedule: Any, told: list[str]) -> None:
    iteration_based = Progress(5, 0.05, max_iterations=100, max_epochs=1)
    for _ in range(3):
        schedule(iteration_based)
    name = type(schedule).__name__
    assert len(told) == 1
    assert re.match(rf'{name}: epoch 17 never comes, .* set by_epoch=False', told[0])
    schedule(Progress(5, 0.5, max_iterations=200, max_epochs=20))
    assert len(told) == 1


@pytest.mark.parametrize(
    ('schedule', 'warns'),
    [
        (LinearWarmup(end=1), True),
        (LinearWarmup(begin=1), True),
        (CosineDecay(end=1), True),
        (Stop(at=1), True),
        (Steps(milestones=[1]), True),
        (Chain([dict(type='LinearWarmup', end=1), 2]), True),
        (LinearWarmup(), False),
        (LinearWarmup(begin=0.5), False),
        (CosineDecay(end=0.5), False),
        (Stop(at=0.9), False),
        (Steps(milestones=[]), False),
        (LinearWarmup(end=1, by_epoch=False), False),
    ],
)
def test_the_first_epoch_of_an_iteration_based_run_is_told_to_be_all_of_it(
    schedule: Any, warns: bool, told: list[str]
) -> None:
    schedule(Progress(5, 0.05, max_iterations=100, max_epochs=1))
    assert [': epoch 1 comes only at the end' in text for text in told] == [True] * warns
    schedule(Progress(5, 0.5, max_iterations=20, max_epochs=2))
    assert len(told) == warns


@pytest.mark.parametrize(
    'schedule', [LinearWarmup(end=20), Stop(at=120, by_epoch=False), Steps(milestones=[5, 13])]
)
def test_what_lies_beyond_the_end_of_any_run_is_told(schedule: Any, told: list[str]) -> None:
    schedule(Progress(5, 0.5, max_iterations=120, max_epochs=20))
    assert told == []
    schedule(Progress(5, 0.5, max_iterations=60, max_epochs=12))
    assert len(told) == 1
    assert re.fullmatch(r'\w+: (epoch|iteration) \d+ never comes, as this run counts .*s', told[0])


@pytest.mark.parametrize(
    'config',
    [
        dict(type='LinearWarmup', begin=-1),
        dict(type='LinearWarmup', end='1'),
        dict(type='CosineDecay', end=math.nan),
        dict(type='Stop', at=-1),
        dict(type='Stop', at=None),
        dict(type='Steps', milestones=5),
        dict(type='Steps', milestones=[1, 'x']),
        dict(type='Steps', gamma=-0.5, milestones=[1]),
        dict(type='Chain', schedules=3),
    ],
    ids=str,
)
def test_what_is_no_point_of_training_is_named_when_built(config: dict[str, Any]) -> None:
    option = list(config)[1]
    with pytest.raises(ValueError, match=rf'^CKDLoss\.weight\.{option}: '):
        build_schedule(config, 'CKDLoss.weight')
