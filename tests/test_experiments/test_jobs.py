from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mmkd.experiments import Command, Job, JobError, run_jobs
from mmkd.experiments.jobs import spent

MakeJob = Callable[..., Job]


@pytest.fixture
def job(tmp_path: Path) -> MakeJob:
    """A job that runs a piece of Python as a script with two arguments."""

    def make(name: str, code: str, allowed: tuple[int, ...] = (0,)) -> Job:
        script, folder = tmp_path / f'{name}.py', tmp_path / name
        script.write_text(code)
        command = Command('train', (str(script), 'a', 'b c'), allowed)
        return Job(name, folder, partial(command.run, folder))  # type: ignore[arg-type]

    return make


def test_a_script_runs_as_from_the_shell(
    job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        'import os, sys, torch\n'
        'print(__name__, sys.argv[1:], os.environ["OMP_NUM_THREADS"], torch.get_num_threads())\n'
        'print(os.getsid(0) == os.getppid(), file=sys.stderr)\n'
    )
    run_jobs([job('script', code)], 2, threads=2)
    lines = (tmp_path / 'script' / 'console.log').read_text().splitlines()
    assert lines[:2] == ["__main__ ['a', 'b c'] 2 2", 'True']
    assert '[1/1] script: None' in capsys.readouterr().out, 'what the job returned'


def test_the_time_of_all_calls_is_added_up(job: MakeJob, tmp_path: Path) -> None:
    for _ in range(2):
        run_jobs([job('training', 'import time; time.sleep(0.3)')], 1, 1)
    assert 0.6 <= spent(tmp_path / 'training', 'train') < 30
    assert spent(tmp_path / 'training', 'test') == 0


def test_so_many_run_at_a_time_and_after_a_failure_the_others_go_on(
    job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [
        job('slow', 'import time; time.sleep(1.5)'),
        job('failing', 'print("the reason"); exit(3)'),
        job('last', 'exit(3)', allowed=(0, 3)),
    ]
    with pytest.raises(JobError, match=r'failed: failing$'):
        run_jobs(jobs, 2, 1)
    said = capsys.readouterr().out
    assert re.search(r'failing: failed[^$]*the reason[^$]*failing.py failed with exit code 3', said)
    order = re.findall(r'\[\d/3\] (\w+)', said)
    assert order.index('failing') == 0
    assert set(order) == {'slow', 'failing', 'last'}


def test_a_process_that_is_killed_before_it_said_anything_does_not_stop_the_others(
    job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = Job('killed', tmp_path / 'killed', partial(signal.raise_signal, signal.SIGKILL))
    unread = Job('unread', tmp_path / 'unread', _Unread())
    with pytest.raises(JobError, match=r'failed: killed, unread$'):
        run_jobs([killed, unread, job('last', '')], 1, 1)
    assert re.search(r'killed: failed with exit code -9', said := capsys.readouterr().out)
    assert '[3/3] last: None' in said


class _Unread:
    """What a job does, which its process cannot unpickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return int, ('no number',)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruptions_reach_the_processes_as_ctrl_c(
    job: MakeJob, tmp_path: Path, number: int
) -> None:
    ready = tmp_path / 'ready'
    code = (
        'import pathlib, time\n'
        'try:\n'
        f'    pathlib.Path({str(ready)!r}).touch()\n'
        '    time.sleep(600)\n'
        'except KeyboardInterrupt:\n    time.sleep(0.5); print("stopped in order")\n'
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
            run_jobs([job('student', code), job('waiting', '')], 1, 1)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, original)
    helper.join()
    assert 'stopped in order\n' in (tmp_path / 'student' / 'console.log').read_text()
    assert not (tmp_path / 'waiting').exists()
    assert spent(tmp_path / 'student', 'train') > 0


def test_a_process_that_ignores_ctrl_c_is_killed(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmkd.experiments.jobs._PATIENCE_SECONDS', 0.5)
    deaf = (
        'import os, pathlib, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); '
        f'pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid())); time.sleep(600)'
    )
    unwritable = job('unwritable', '')
    (tmp_path / 'unwritable').touch()
    quick = job('quick', 'import time; time.sleep(1)')
    with pytest.raises(FileExistsError, match='unwritable'):
        run_jobs([job('deaf', deaf), quick, unwritable], 2, 1)
    deadline = time.monotonic() + 20
    while Path('/proc', (tmp_path / 'pid').read_text()).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_training_logged_last_is_shown(job: MakeJob) -> None:
    training = job('training', '')
    assert training.progress() == 'running'
    for time_, epoch in (('20260101_000000', 1), ('20260102_000000', 2)):
        path = training.folder / time_ / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        logged = [{'loss': 0.5, 'epoch': epoch, 'step': 8}, {'coco/bbox_mAP': 0.1, 'step': epoch}]
        path.write_text('\n'.join(map(json.dumps, logged)) + '\n{"loss": 0.')
    assert training.progress() == 'epoch 2, loss 0.500'
