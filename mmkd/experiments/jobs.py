"""Run jobs of several commands each, some at a time, each job after those that it needs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmkd.experiments.warm import start_script

_POLL_SECONDS = 0.3
_STATUS_SECONDS = 20.0
_PATIENCE_SECONDS = 15.0
_LINES_OF_A_FAILURE = 15


class JobError(RuntimeError):
    """A command failed; the message holds the end of what it printed."""


@dataclass(frozen=True)
class Command:
    """A script of ``tools/`` with its arguments.

    Attributes:
        kind: ``'train'``, ``'test'``, ...: under this name its time is kept.
        words: Script and arguments.
        allowed: Exit codes that are no failure.
    """

    kind: str
    words: tuple[str, ...]
    allowed: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Job:
    """Commands that run one after the other.

    Attributes:
        name: How it is called in messages and in ``after`` of others.
        folder: Where its output is kept, as ``console.log``, and its time.
        commands: Gives the commands, asked for when what it needs is there.
        after: Names of the jobs that it needs.
        finish: Called at its end; returns a word on the result.
    """

    name: str
    folder: Path
    commands: Callable[[], Sequence[Command]]
    after: tuple[str, ...] = ()
    finish: Callable[[], str] | None = None


def say(message: str) -> None:
    """Print a line at once, also into a file."""
    print(message, flush=True)


def spent(folder: Path, kind: str) -> float:
    """Seconds that a job's commands of a kind took, of all calls together."""
    path = folder / 'seconds.txt'
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(float(line.split()[1]) for line in lines if line.split()[0] == kind)


def progress(folder: Path) -> str:
    """``epoch 3, loss 0.812`` of the training in a folder, as MMEngine's LocalVisBackend wrote it last."""
    for path in sorted(folder.glob('*/vis_data/scalars.json'), reverse=True):
        for line in reversed(path.read_text(encoding='utf-8').splitlines()):
            with contextlib.suppress(json.JSONDecodeError, KeyError):
                entry = json.loads(line)
                return f'epoch {entry["epoch"]}, loss {entry["loss"]:.3f}'
    return 'running'


def run_jobs(
    jobs: Sequence[Job],
    parallel: int,
    threads: int,
    preload: Sequence[str] = (),
    keep_going: bool = False,
) -> None:
    """Run all jobs, in the given order as far as they need each other. Must be called in the main thread.

    On an error, on Ctrl-C, on SIGTERM and when the terminal is closed, all processes get SIGINT, as from Ctrl-C.

    Args:
        jobs: A job comes after those named in its ``after``.
        parallel: How many run at a time.
        threads: Of each process.
        preload: Modules that the scripts import anyway, see :func:`mmkd.experiments.warm.start_script`.

        keep_going: After a failure go on with the jobs that do not need the one that failed.

    Raises:
        KeyboardInterrupt: Interrupted in one of these ways.
        JobError: A command failed.
        ValueError: ``after`` names a job that is not there or does not come before.
    """
    names: set[str] = set()
    for job in jobs:
        if not names.issuperset(job.after):
            raise ValueError(f'{job.name}: no job before it is called {set(job.after) - names}')
        names.add(job.name)
    waiting, running, done = list(jobs), list[_Running](), set[str]()
    said, failed = time.monotonic(), list[str]()
    with _interruptions() as interruptions:
        try:
            while waiting or running:
                for job in [job for job in waiting if done.issuperset(job.after)]:
                    if len(running) == parallel:
                        break
                    waiting.remove(job)
                    running.append(_Running(job, list(job.commands())))
                for each in list(running):
                    try:
                        ended = not each.advance(threads, preload)
                    except JobError as error:
                        if not keep_going:
                            raise
                        say(str(error))
                        running.remove(each)
                        failed.append(each.job.name)
                        for job in list(waiting):
                            if set(failed) & set(job.after):
                                waiting.remove(job)
                                failed.append(job.name)
                        continue
                    if ended:
                        running.remove(each)
                        done.add(each.job.name)
                        result = each.job.finish() if each.job.finish else 'done'
                        say(f'[{len(done)}/{len(jobs)}] {each.job.name}: {result}')
                if interruptions:
                    raise KeyboardInterrupt
                if running:
                    if time.monotonic() - said > _STATUS_SECONDS:
                        say(' | '.join(f'{each.job.name}: {each.describe()}' for each in running))
                        said = time.monotonic()
                    time.sleep(_POLL_SECONDS)
        except BaseException:
            say('stopping ...')
            _stop(running, interruptions)
            raise
    if failed:
        raise JobError(f'failed, or in need of what failed: {", ".join(failed)}')


@dataclass
class _Running:
    job: Job
    commands: list[Command]
    process: BaseProcess | None = None
    started: float = field(default_factory=time.monotonic)

    def advance(self, threads: int, preload: Sequence[str]) -> bool:
        """Start the next command if there is nothing running; False at the end of the job."""
        if self.process is not None:
            if self.process.exitcode is None:
                return True
            self.account()
            command = self.commands.pop(0)
            if self.process.exitcode not in command.allowed:
                lines = self.log.read_text(encoding='utf-8', errors='replace').splitlines()
                end = '\n'.join(f'  {line}' for line in lines[-_LINES_OF_A_FAILURE:])
                raise JobError(
                    f'{self.job.name}: {command.words[0]} failed with exit code {self.process.exitcode}. '
                    f'The end of {self.log}:\n{end}'
                )
            self.process = None
        if not self.commands:
            return False
        self.job.folder.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        self.process = start_script(self.commands[0].words, self.log, threads, preload)
        return True

    @property
    def log(self) -> Path:
        return self.job.folder / 'console.log'

    def account(self) -> None:
        with (self.job.folder / 'seconds.txt').open('a') as file:
            file.write(f'{self.commands[0].kind} {time.monotonic() - self.started:.1f}\n')

    def describe(self) -> str:
        kind = self.commands[0].kind if self.commands else ''
        return progress(self.job.folder) if kind == 'train' else kind


@contextlib.contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Signals that ask for the end, to be looked at between two steps; what is ignored, as by nohup, stays so."""
    seen: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: seen.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(running: Sequence[_Running], interruptions: list[int]) -> None:
    """SIGINT to all, as Ctrl-C does; SIGKILL to what is left after a while or at another Ctrl-C."""
    processes = [each.process for each in running if each.process is not None]
    _signal(processes, signal.SIGINT)
    deadline, requests = time.monotonic() + _PATIENCE_SECONDS, len(interruptions)
    while (
        any(process.exitcode is None for process in processes)
        and time.monotonic() < deadline
        and len(interruptions) == requests
    ):
        time.sleep(0.1)
    # Also reaches a data loader's processes that outlived their parent.
    _signal(processes, signal.SIGKILL)
    for each in running:
        if each.process is not None and each.commands:
            each.process.join()
            each.account()


def _signal(processes: Sequence[BaseProcess], number: signal.Signals) -> None:
    for process in processes:
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
