from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd.experiments import Command, Job, JobError, run_jobs
from mmkd.experiments.jobs import _Running, spent

MakeJob = Callable[..., Job]


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def job(tmp_path: Path, events: list[str]) -> MakeJob:
    """A job that runs pieces of Python, and notes when it is asked for them and when it is finished."""

    def make(
        name: str, *codes: str, after: tuple[str, ...] = (), allowed: tuple[int, ...] = (0,)
    ) -> Job:
        def commands() -> list[Command]:
            events.append(f'start {name}')
            words = []
            for number, code in enumerate(codes):
                script = tmp_path / f'{name}_{number}.py'
                script.write_text(code)
                words.append((str(script), 'a', 'b c'))
            return [Command('train', each, allowed) for each in words]

        def finish() -> str:
            events.append(f'finish {name}')
            return 'fine'

        return Job(name, tmp_path / name, commands, after, finish)

    return make


def run(jobs: list[Job], threads: int = 1) -> None:
    run_jobs(jobs, 2, threads)


def test_a_job_waits_for_what_it_needs_and_others_do_not(
    job: MakeJob, events: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        [
            job('teacher', 'import time; time.sleep(1)'),
            job('student', after=('teacher',)),
            job('plain', ''),
        ]
    )
    assert events == [
        'start teacher', 'start plain', 'finish plain', 'finish teacher', 'start student', 'finish student',
    ]  # fmt: skip
    assert '[1/3] plain: fine' in capsys.readouterr().out


def test_a_script_runs_as_from_the_shell(job: MakeJob, tmp_path: Path) -> None:
    code = (
        'import os, sys, torch\n'
        'print(__name__, sys.argv[1:], os.environ["OMP_NUM_THREADS"], torch.get_num_threads())\n'
        'print(os.getsid(0) == os.getpid(), file=sys.stderr)\n'
    )
    run([job('script', code)], threads=2)
    lines = (tmp_path / 'script' / 'console.log').read_text().splitlines()
    assert lines[0] == "__main__ ['a', 'b c'] 2 2"
    assert lines[1] == 'True'


def test_the_time_of_all_calls_is_added_up(job: MakeJob, tmp_path: Path) -> None:
    for _ in range(2):
        run([job('training', 'import time; time.sleep(0.3)')])
    assert 0.6 <= spent(tmp_path / 'training', 'train') < 30
    assert spent(tmp_path / 'training', 'test') == 0


def test_after_a_failure_the_others_go_on(
    job: MakeJob, events: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [
        job('failing', 'print("the reason"); exit(3)', ''),
        job('needing', '', after=('failing',)),
        job('later', '', after=('needing',)),
        job('other', 'import time; time.sleep(1)'),
        job('last', '', after=('other',)),
    ]
    with pytest.raises(JobError, match=r'failing, needing, later$'):
        run(jobs)
    assert events == ['start failing', 'start other', 'finish other', 'start last', 'finish last']
    said = capsys.readouterr().out
    assert re.search(r'failing: .*failing_0.py failed with exit code 3[^$]*the reason', said)


def test_an_exit_code_that_is_allowed_is_no_failure(job: MakeJob, events: list[str]) -> None:
    run([job('store', 'exit(3)', 'print("next")', allowed=(0, 3))])
    assert events[-1] == 'finish store'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruptions_reach_the_processes_as_ctrl_c(
    job: MakeJob, tmp_path: Path, number: int, events: list[str]
) -> None:
    ready = tmp_path / 'ready'
    code = (
        'import pathlib, time\n'
        'try:\n'
        f'    pathlib.Path({str(ready)!r}).touch()\n'
        '    time.sleep(600)\n'
        'except KeyboardInterrupt:\n    print("stopped in order")\n'
    )

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
            run([job('student', code)])
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, original)
    helper.join()
    assert (tmp_path / 'student' / 'console.log').read_text() == 'stopped in order\n'
    assert events == ['start student']
    assert spent(tmp_path / 'student', 'train') > 0


def test_a_process_that_ignores_ctrl_c_is_killed(
    job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmkd.experiments.jobs._PATIENCE_SECONDS', 0.5)
    deaf = 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)'
    wrong = dataclasses.replace(job('wrong', ''), finish=lambda: [][0])
    started = time.monotonic()
    with pytest.raises(IndexError, match='out of range'):
        run([job('deaf', deaf), wrong])
    assert time.monotonic() - started < 60


def test_what_a_training_logged_last_is_shown(job: MakeJob) -> None:
    training = job('training', '')
    running = _Running(training, list(training.commands()))
    assert running.describe() == 'train'
    for time_, epoch in (('20260101_000000', 1), ('20260102_000000', 2)):
        path = training.folder / time_ / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        logged = [{'loss': 0.5, 'epoch': epoch, 'step': 8}, {'coco/bbox_mAP': 0.1, 'step': epoch}]
        path.write_text('\n'.join(map(json.dumps, logged)) + '\n{"loss": 0.')
    assert running.describe() == 'epoch 2, loss 0.500'
