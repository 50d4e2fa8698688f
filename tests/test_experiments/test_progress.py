from __future__ import annotations

import io
from pathlib import Path

import pytest

from mmkd.experiments.progress import Display, LogFollower, Progress, clock

PREFIX = '2026/11/21 03:31:30 - mmengine - INFO - '
TRAIN = (
    PREFIX + 'Epoch(train) [{epoch}][{batch}/100]  base_lr: 1.6e-03 lr: 1.6e-03  eta: 0:09:21  '
    'time: 0.7891  data_time: 0.0305  grad_norm: 1.6603  loss: 0.9816  loss_cls: 0.5666'
)
VAL = (
    PREFIX + 'Epoch(val) [{epoch}][32/32]    coco/bbox_mAP: 0.2130  coco/bbox_mAP_50: 0.4000  '
    'data_time: 0.0176  time: 0.1836'
)


def test_epoch_loss_and_rest_are_read_from_the_log() -> None:
    progress = Progress(epochs=4)
    assert progress.describe(0.0) == 'starting'
    assert progress.seconds_left(0.0) is None
    assert not progress.read(TRAIN.format(epoch=1, batch=' 50'), now=10.0)
    assert progress.done == 0.5
    # One epoch in 60 s, 2.5 of them to go.
    assert not progress.read(TRAIN.format(epoch=2, batch=' 50'), now=70.0)
    assert progress.seconds_left(70.0) == pytest.approx(150.0)
    assert progress.describe(70.0) == 'epoch 2/4, loss 0.982, 2:30 left'


def test_the_end_of_a_validation_is_told_and_names_its_epoch() -> None:
    progress = Progress(epochs=4)
    progress.read(TRAIN.format(epoch=1, batch=100), now=10.0)
    assert not progress.read(PREFIX + 'Epoch(val)   [1][20/32]    eta: 0:00:01  time: 0.1', now=11)
    assert progress.describe(11.0) == 'epoch 1/4, validating, loss 0.982'
    assert progress.read(VAL.format(epoch=1), now=12.0)
    assert progress.describe(12.0).startswith('epoch 1/4, loss 0.982, mAP 0.213')
    progress.read(TRAIN.format(epoch=2, batch=10), now=20.0)
    assert progress.describe(20.0).startswith('epoch 2/4, loss 0.982, mAP 0.213')


def test_the_accuracy_of_a_classifier_is_a_metric_too() -> None:
    progress = Progress(epochs=4)
    progress.read(TRAIN.format(epoch=1, batch=100), now=10.0)
    line = (
        PREFIX + 'Epoch(val) [1][6/6]    accuracy/top1: 41.2667  accuracy/top5: 80.2000  time: 0.1'
    )
    assert progress.read(line, now=12.0)
    assert progress.describe(12.0).startswith('epoch 1/4, loss 0.982, top-1 41.3')


def test_a_resumed_training_is_timed_from_where_it_went_on() -> None:
    progress = Progress(epochs=8)
    progress.read(TRAIN.format(epoch=7, batch=' 50'), now=5.0)
    progress.read(TRAIN.format(epoch=8, batch=' 50'), now=15.0)
    assert progress.seconds_left(15.0) == pytest.approx(5.0)


def test_other_lines_change_nothing() -> None:
    progress = Progress(epochs=8)
    for line in ('', 'Traceback', PREFIX + 'Saving checkpoint at 1 epochs'):
        assert not progress.read(line, now=1.0)
    assert progress == Progress(epochs=8)


def test_a_follower_gives_whole_new_lines_only(tmp_path: Path) -> None:
    path = tmp_path / 'console.log'
    early = LogFollower(path)
    assert early.new_lines() == []
    path.write_text('old\n')
    follower = LogFollower(path)
    with path.open('a') as file:
        file.write('one\ntw')
        file.flush()
        assert follower.new_lines() == ['one']
        file.write('o\n')
        file.flush()
        assert follower.new_lines() == ['two']
    assert early.new_lines() == ['old', 'one', 'two']


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_status_below_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '11')
    stream = Terminal()
    display = Display(stream)
    display.status('a status that is too long')
    display.say('message')
    display.status('b')
    display.close()
    erase = '\r\x1b[K'
    assert stream.getvalue() == f'{erase}a status t{erase}message\n{erase}b{erase}'


def test_a_file_gets_a_status_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr('time.monotonic', lambda: now)
    stream = io.StringIO()
    display = Display(stream)
    display.say('message')
    display.status('too soon')
    now += 31
    display.status('in time')
    display.status('too soon again')
    assert stream.getvalue() == 'message\nin time\n'


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.4, 61, 3600, 3725)] == [
        '0:00', '0:59', '1:01', '1:00:00', '1:02:05',
    ]  # fmt: skip
