"""Run jobs of several commands each, some at a time, each job after those that it needs.

Importing PyTorch and OpenMMLab's packages takes longer than the smallest trainings: a fork server imports them once
(``preload.py``), and each script is forked from it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mmkd.report import read_log

_POLL_SECONDS = 0.3
_STATUS_SECONDS = 20.0
_PATIENCE_SECONDS = 15.0
_LINES_OF_A_FAILURE = 15


class JobError(RuntimeError):
    """Commands failed; the message names their jobs."""


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
        after: Names of the jobs that it needs, which come before it.
        finish: Called at its end; returns a word on the result.
    """

    name: str
    folder: Path
    commands: Callable[[], Sequence[Command]]
    after: tuple[str, ...] = ()
    finish: Callable[[], str] = lambda: 'done'


def say(message: str) -> None:
    """Print a line at once, also into a file."""
    print(message, flush=True)


def spent(folder: Path, kind: str) -> float:
    """Seconds that a job's commands of a kind took, of all calls together."""
    path = folder / 'seconds.txt'
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(float(line.split()[1]) for line in lines if line.split()[0] == kind)


def run_jobs(jobs: Sequence[Job], parallel: int, threads: int) -> None:
    """Run all jobs, in the given order as far as they need each other. Must be called in the main thread.

    A job that fails does not stop those that do not need it. On Ctrl-C, on SIGTERM and when the terminal is closed, all
    processes get SIGINT, as from Ctrl-C.

    Args:
        jobs: A job comes after those named in its ``after``.
        parallel: How many run at a time.
        threads: Of each process.

    Raises:
        KeyboardInterrupt: Interrupted in one of these ways.
        JobError: A command failed.
    """
    waiting, running = list(jobs), list[_Running]()
    done, failed, said = set[str](), list[str](), time.monotonic()
    with _interruptions() as interruptions:
        try:
            while waiting or running:
                for job in list(waiting):
                    if not set(failed).isdisjoint(job.after):
                        waiting.remove(job)
                        failed.append(job.name)
                    elif done.issuperset(job.after) and len(running) < parallel:
                        waiting.remove(job)
                        running.append(_Running(job, list(job.commands())))
                for each in list(running):
                    try:
                        if each.advance(threads):
                            continue
                        done.add(each.job.name)
                        say(f'[{len(done)}/{len(jobs)}] {each.job.name}: {each.job.finish()}')
                    except JobError as error:
                        say(str(error))
                        failed.append(each.job.name)
                    running.remove(each)
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

    def advance(self, threads: int) -> bool:
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
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(['mmkd.experiments.preload'])
        arguments = (self.commands[0].words, self.log, threads)
        self.process = context.Process(target=_run, args=arguments)
        self.process.start()
        return True

    @property
    def log(self) -> Path:
        return self.job.folder / 'console.log'

    def account(self) -> None:
        with (self.job.folder / 'seconds.txt').open('a') as file:
            file.write(f'{self.commands[0].kind} {time.monotonic() - self.started:.1f}\n')

    def describe(self) -> str:
        """What runs, or ``epoch 3, loss 0.812`` of a training."""
        kind = self.commands[0].kind
        logged = [entry for entry in read_log(self.job.folder) if 'loss' in entry]
        if kind == 'train' and logged:
            return f'epoch {logged[-1]["epoch"]}, loss {logged[-1]["loss"]:.3f}'
        return kind


def _run(words: Sequence[str], log: Path, threads: int) -> None:
    """In a process forked for it: ``python SCRIPT ARGUMENTS`` in a session of its own, its output added to ``log``."""
    # Ctrl-C in the terminal reaches the process that started this one, which stops it once, in order.
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As in any script; the fork server's children would start theirs as it does.
    multiprocessing.set_start_method('fork', force=True)
    with log.open('ab') as output, open(os.devnull) as nothing:
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source.fileno(), target)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    torch.set_num_threads(threads)
    sys.argv = list(words)
    runpy.run_path(words[0], run_name='__main__')


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
