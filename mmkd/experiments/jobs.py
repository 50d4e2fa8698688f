"""Run jobs, some at a time, each in a process of its own that runs scripts of ``tools/``.

Importing PyTorch and OpenMMLab's packages takes longer than the smallest trainings: a fork server imports them once
(``preload.py``), and all processes are forked from it.
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
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mmkd.report import read_log

_POLL_SECONDS = 0.3
_STATUS_SECONDS = 20.0
_PATIENCE_SECONDS = 15.0
_LINES_OF_A_FAILURE = 15


class JobError(RuntimeError):
    """Something that a job ran failed."""


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

    def run(self, folder: Path) -> None:
        """Run it in a process of its own, and add the seconds it took to those in a folder.

        Raises:
            JobError: It failed.
        """
        began = time.monotonic()
        process = multiprocessing.get_context('fork').Process(target=_script, args=(self.words,))
        process.start()
        try:
            process.join()
        finally:  # Ctrl-C reaches it, too
            process.join()
            with (folder / 'seconds.txt').open('a') as file:
                file.write(f'{self.kind} {time.monotonic() - began:.1f}\n')
        if process.exitcode not in self.allowed:
            raise JobError(f'{self.words[0]} failed with exit code {process.exitcode}')


def _script(words: Sequence[str]) -> None:
    sys.argv = list(words)
    runpy.run_path(words[0], run_name='__main__')


def spent(folder: Path, kind: str) -> float:
    """Seconds that commands of a kind took, of all calls together, as kept in a folder."""
    path = folder / 'seconds.txt'
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(float(line.split()[1]) for line in lines if line.split()[0] == kind)


@dataclass(frozen=True)
class Job:
    """What runs in a process of its own.

    Attributes:
        name: How it is called in messages.
        folder: Where its output is kept, as ``console.log``, and its training, if it is one, has its logs.
        make: Does it, and returns a word on the result; can be pickled.
    """

    name: str
    folder: Path
    make: Callable[[], str]

    @property
    def log(self) -> Path:
        """The file of its output."""
        return self.folder / 'console.log'

    def output(self) -> list[str]:
        """The lines of the log; none if the process was killed before it opened it."""
        if not self.log.exists():
            return []
        return self.log.read_text(encoding='utf-8', errors='replace').splitlines()

    def progress(self) -> str:
        """``epoch 3, loss 0.812`` of its training."""
        logged = [entry for entry in read_log(self.folder) if 'loss' in entry]
        if not logged:
            return 'running'
        return f'epoch {logged[-1]["epoch"]}, loss {logged[-1]["loss"]:.3f}'


def say(message: str) -> None:
    """Print a line at once, also into a file."""
    print(message, flush=True)


def run_jobs(jobs: Sequence[Job], parallel: int, threads: int) -> None:
    """Run all jobs in the given order. Must be called in the main thread.

    One that fails does not stop the others. On Ctrl-C, on SIGTERM and when the terminal is closed, all processes get
    SIGINT, as from Ctrl-C.

    Args:
        jobs: What to run.
        parallel: How many run at a time.
        threads: Of each process.

    Raises:
        KeyboardInterrupt: Interrupted in one of these ways.
        JobError: Some failed; the message names them.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmkd.experiments.preload'])
    waiting, running = list(jobs), dict[Job, BaseProcess]()
    failed, said = list[str](), time.monotonic()
    with _interruptions() as interruptions:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    job.folder.mkdir(parents=True, exist_ok=True)
                    running[job] = context.Process(target=_run, args=(job, threads))
                    running[job].start()
                for job, process in list(running.items()):
                    if process.exitcode is None:
                        continue
                    del running[job]
                    done = len(jobs) - len(waiting) - len(running)
                    lines = job.output()
                    what = lines[-1] if lines else ''
                    if process.exitcode:
                        failed.append(job.name)
                        end = '\n'.join(f'  {line}' for line in lines[-_LINES_OF_A_FAILURE:])
                        code = process.exitcode
                        what = f'failed with exit code {code}. The end of {job.log}:\n{end}'
                    say(f'[{done}/{len(jobs)}] {job.name}: {what}')
                if interruptions:
                    raise KeyboardInterrupt
                if running:
                    if time.monotonic() - said > _STATUS_SECONDS:
                        say(' | '.join(f'{job.name}: {job.progress()}' for job in running))
                        said = time.monotonic()
                    time.sleep(_POLL_SECONDS)
        except BaseException:
            say('stopping ...')
            _stop(list(running.values()), interruptions)
            raise
    if failed:
        raise JobError(f'failed: {", ".join(failed)}')


def _run(job: Job, threads: int) -> None:
    """In a process forked for it: do a job, in a session of its own; its word on the result is the log's last line."""
    # Ctrl-C in the terminal reaches the process that started this one, which stops it once, in order.
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As in any script; the fork server's children would start theirs as it does.
    multiprocessing.set_start_method('fork', force=True)
    with job.log.open('ab') as output, open(os.devnull) as nothing:
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source.fileno(), target)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    torch.set_num_threads(threads)
    try:
        print(job.make())
    except (JobError, KeyboardInterrupt) as error:
        sys.exit(str(error) or 'interrupted')


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


def _stop(processes: Sequence[BaseProcess], interruptions: list[int]) -> None:
    """SIGINT to all, as Ctrl-C does; SIGKILL to what is left after a while or at another Ctrl-C."""
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


def _signal(processes: Sequence[BaseProcess], number: signal.Signals) -> None:
    for process in processes:
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
