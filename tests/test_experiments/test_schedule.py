from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mmkd.experiments import Action, Decision, Display, StageError, run_stages


@dataclass
class Script:
    """A stage that runs some Python and notes when it is prepared and finished."""

    name: str
    folder: Path
    code: str = ''
    after: tuple[str, ...] = ()
    threads: int | None = None
    epochs: int = 0
    action: Action = Action.START
    events: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / f'{self.name}.log'

    def prepare(self) -> tuple[Decision, list[str]]:
        self.events.append(f'prepare {self.name}')
        return Decision(self.action, 'because'), [sys.executable, '-c', self.code]

    def finish(self, seconds: float, succeeded: bool) -> None:
        self.events.append(f'finish {self.name} {succeeded}')


def display() -> tuple[Display, io.StringIO]:
    stream = io.StringIO()
    return Display(stream), stream


def test_a_stage_waits_for_what_it_needs_and_others_do_not(tmp_path: Path) -> None:
    events: list[str] = []
    slow = 'import time; time.sleep(1.5)'
    stages = [
        Script('teacher', tmp_path, slow, events=events),
        Script('student', tmp_path, after=('teacher',), events=events),
        Script('plain', tmp_path, events=events),
    ]
    shown, stream = display()
    run_stages(stages, jobs=2, display=shown, first_number=2, total=9)
    assert events[:3] == ['prepare teacher', 'prepare plain', 'finish plain True']
    assert events[3:] == ['finish teacher True', 'prepare student', 'finish student True']
    assert '[3/9] student  start: because' in stream.getvalue()


def test_a_stage_that_is_done_is_not_run(tmp_path: Path) -> None:
    done = Script('done', tmp_path, 'raise SystemExit(1)', action=Action.REUSE)
    following = Script('following', tmp_path, after=('done',))
    shown, stream = display()
    run_stages([done, following], jobs=1, display=shown)
    assert done.events == ['prepare done']
    assert following.events == ['prepare following', 'finish following True']
    assert 'nothing to do, because' in stream.getvalue()


def test_threads_and_output_reach_the_process_and_its_log(tmp_path: Path) -> None:
    code = 'import os, sys; print(os.environ["OMP_NUM_THREADS"]); print("x", file=sys.stderr)'
    stage = Script('threads', tmp_path, code, threads=3)
    run_stages([stage], jobs=1, display=display()[0])
    assert stage.log.read_text() == '3\nx\n'


def test_a_failure_shows_the_end_of_the_log_and_stops_the_others(tmp_path: Path) -> None:
    endless = Script('endless', tmp_path, 'import time; time.sleep(600)')
    code = 'import sys, time; time.sleep(1); print("the reason"); sys.exit(3)'
    failing = Script('failing', tmp_path, code)
    started = time.monotonic()
    with pytest.raises(StageError, match=r'failing failed with exit code 3[^$]*the reason'):
        run_stages([endless, failing], jobs=2, display=display()[0])
    assert time.monotonic() - started < 60
    assert endless.events[-1] == 'finish endless False'
    assert failing.events[-1] == 'finish failing False'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruptions_reach_the_processes_as_ctrl_c(tmp_path: Path, number: int) -> None:
    ready = tmp_path / 'ready'
    code = (
        'import pathlib, signal, time\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        f'pathlib.Path({str(ready)!r}).touch()\n'
        'try:\n    time.sleep(600)\n'
        'except KeyboardInterrupt:\n    print("stopped in order")\n'
    )
    stage = Script('student', tmp_path, code)

    def interrupt_when_ready() -> None:
        while not ready.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    # Whatever started the tests may have left the signal ignored.
    original = signal.signal(number, signal.default_int_handler)
    helper = threading.Thread(target=interrupt_when_ready)
    helper.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_stages([stage], jobs=1, display=display()[0])
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, original)
    helper.join()
    assert stage.log.read_text() == 'stopped in order\n'
    assert stage.events[-1] == 'finish student False'


def test_a_process_that_ignores_ctrl_c_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmkd.experiments.schedule._PATIENCE_SECONDS', 0.5)
    deaf = 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)'
    failing = Script('failing', tmp_path, 'import time; time.sleep(1); raise SystemExit(1)')
    started = time.monotonic()
    with pytest.raises(StageError, match='failing'):
        run_stages([Script('deaf', tmp_path, deaf), failing], jobs=2, display=display()[0])
    assert time.monotonic() - started < 60


def test_progress_of_a_training_is_shown_as_its_log_grows(tmp_path: Path) -> None:
    code = (
        'print("Epoch(train) [1][8/8]  eta: 0:00:01  loss: 0.5000")\n'
        'print("Epoch(val) [1][8/8]  coco/bbox_mAP: 0.2130")'
    )
    shown, stream = display()
    run_stages([Script('student', tmp_path, code, epochs=2)], jobs=1, display=shown)
    assert '[1/1] student  epoch 1/2, loss 0.500, mAP 0.213' in stream.getvalue()


@pytest.mark.parametrize('after', ['missing', 'second'])
def test_a_stage_that_could_never_run_is_refused(tmp_path: Path, after: str) -> None:
    stages = [Script('first', tmp_path, after=(after,)), Script('second', tmp_path)]
    with pytest.raises(ValueError, match=f'first: no stage before it is called .*{after}'):
        run_stages(stages, jobs=1, display=display()[0])
    assert stages[0].events == []
