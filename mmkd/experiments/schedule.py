"""Run stages as processes, several at a time, each after those it depends on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from mmkd.experiments.progress import Display, LogFollower, Progress, clock
from mmkd.experiments.runs import Action, Stage, StageError
from mmkd.experiments.warm import WarmProcess, start_warm

_POLL_SECONDS = 0.3
_PATIENCE_SECONDS = 15.0
_LINES_OF_A_FAILURE = 15


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes] | WarmProcess
    follower: LogFollower
    progress: Progress
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def run_stages(
    stages: Sequence[Stage],
    jobs: int,
    display: Display,
    first_number: int = 1,
    total: int | None = None,
    preload: Sequence[str] = (),
) -> None:
    """Run every stage, ``jobs`` at a time, in the given order as far as dependencies allow.

    Each gets its own process, with ``OMP_NUM_THREADS`` set to its ``threads`` or to an equal share
    of the cores. On an error, on Ctrl-C, on SIGTERM and when the terminal is closed all processes
    get SIGINT, as from Ctrl-C. Must be called in the main thread.

    Args:
        stages: what to run; a stage comes after the ones named in its ``after``.
        jobs: the number of processes at a time.
        display: where progress is shown.
        first_number: the number of the first stage in messages.
        total: the number that messages give as the last; by default the last stage's.
        preload: modules that the stages' scripts import anyway: with them, commands ``python SCRIPT.py ...`` are forked
            from a process that has imported them and start in a fraction of a second. One choice per process.

    Raises:
        ValueError: ``after`` names a stage that is not there or does not come before.
        KeyboardInterrupt: interrupted in one of these ways.
        StageError: a stage failed; its message holds the end of the stage's log.
    """
    _check_order(stages)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    share = max(1, (cores or 1) // jobs)
    total = total or first_number + len(stages) - 1
    numbers = {stage.name: first_number + index for index, stage in enumerate(stages)}
    width = max(len(stage.name) for stage in stages)
    waiting = list(stages)
    running: list[_Running] = []
    done: set[str] = set()

    def say(stage: Stage, text: str) -> None:
        display.say(f'[{numbers[stage.name]}/{total}] {stage.name:<{width}}  {text}')

    with _Interruptions() as interruptions:
        try:
            while waiting or running:
                for stage in [stage for stage in waiting if done.issuperset(stage.after)]:
                    if len(running) == jobs:
                        break
                    waiting.remove(stage)
                    decision, command = stage.prepare()
                    if decision.action is Action.REUSE:
                        say(stage, f'nothing to do, {decision.reason}')
                        done.add(stage.name)
                        continue
                    say(stage, f'{decision.action.value}: {decision.reason}; log in {stage.log}')
                    running.append(_start(stage, command, stage.threads or share, preload))
                for item in list(running):
                    ended = item.process.poll() is not None
                    for line in item.follower.new_lines():
                        if item.progress.read(line, time.monotonic()):
                            say(item.stage, item.progress.describe(time.monotonic()))
                    if ended:
                        running.remove(item)
                        _finish(item)
                        done.add(item.stage.name)
                        say(item.stage, f'done in {clock(item.seconds)}')
                if interruptions.count:
                    raise KeyboardInterrupt
                if running:
                    display.status(' | '.join(f'{r.stage.name}: {_describe(r)}' for r in running))
                    time.sleep(_POLL_SECONDS)
        except BaseException:
            display.say('stopping ...')
            _stop(running, interruptions)
            raise
    display.close()


class _Interruptions:
    """Counts the requests to end, to be looked at between two steps instead of breaking into one.

    Signals that are ignored, as nohup ignores the end of the terminal, stay ignored.
    """

    def __init__(self) -> None:
        self.count = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interruptions:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def _check_order(stages: Sequence[Stage]) -> None:
    earlier: set[str] = set()
    for stage in stages:
        missing = set(stage.after) - earlier
        if missing:
            raise ValueError(f'{stage.name}: no stage before it is called {sorted(missing)}')
        earlier.add(stage.name)


def _start(stage: Stage, command: list[str], threads: int, preload: Sequence[str]) -> _Running:
    stage.log.parent.mkdir(parents=True, exist_ok=True)
    follower = LogFollower(stage.log)
    environment = os.environ | {
        'OMP_NUM_THREADS': str(threads),
        'MKL_NUM_THREADS': str(threads),
        'PYTHONUNBUFFERED': '1',
    }
    # A session of its own: Ctrl-C in the terminal reaches this process only, which then stops each
    # child once, in order.
    process: subprocess.Popen[bytes] | WarmProcess
    if preload and command[0] == sys.executable and command[1].endswith('.py'):
        process = start_warm(command, environment, stage.log, threads, preload)
    else:
        with stage.log.open('ab') as output:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Ignored signals are inherited: started in the background, this process may ignore SIGINT, by
                # which it stops its children.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
    return _Running(stage, process, follower, Progress(stage.epochs))


def _describe(item: _Running) -> str:
    if item.stage.epochs:
        return item.progress.describe(time.monotonic())
    return f'running for {clock(item.seconds)}'


def _finish(item: _Running) -> None:
    code = item.process.returncode
    item.stage.finish(item.seconds, code == 0)
    if code != 0:
        lines = item.stage.log.read_text(encoding='utf-8', errors='replace').splitlines()
        tail = '\n'.join(f'  {line}' for line in lines[-_LINES_OF_A_FAILURE:])
        raise StageError(
            f'{item.stage.name} failed with exit code {code}. The end of {item.stage.log}:\n{tail}'
        )


def _stop(running: list[_Running], interruptions: _Interruptions) -> None:
    """SIGINT to all, as Ctrl-C does; SIGKILL to what is left after a while or at another Ctrl-C."""
    _signal(running, signal.SIGINT)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    requests = interruptions.count
    while (
        any(item.process.poll() is None for item in running)
        and time.monotonic() < deadline
        and interruptions.count == requests
    ):
        time.sleep(0.1)
    # Also reaches a data loader's processes that outlived their parent.
    _signal(running, signal.SIGKILL)
    for item in running:
        item.process.wait()
        item.stage.finish(item.seconds, succeeded=False)


def _signal(running: list[_Running], number: signal.Signals) -> None:
    for item in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(item.process.pid, number)
