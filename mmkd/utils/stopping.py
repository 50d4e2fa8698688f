"""A command that is stopped says what is kept and how to go on, in one line."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch.distributed as torch_dist

from mmkd.utils.processes import global_rank, leave


class Stopping:
    """Context in which Ctrl-C and SIGTERM end a command with a line instead of a traceback.

    The first process of a run says it. The others end at once: Python handles signals between two steps, and they may
    wait for one another within one.

    Args:
        launcher: What started the processes.

    Attributes:
        outlook: Says what is left of the run; to be set once that is known.
        exit_code: 130 after Ctrl-C, 143 after SIGTERM, as of shells.
    """

    def __init__(self, launcher: str) -> None:
        self.outlook: Callable[[], str] = str
        self.exit_code = 0
        self._first = global_rank(launcher) == 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
                handler = self._note if self._first else signal.SIG_DFL
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        # Any error: what is raised last can be that of a process that the signal ended, too.
        if error is None or not self.exit_code:
            return False
        name = 'Ctrl-C' if self.exit_code == 128 + signal.SIGINT else 'SIGTERM'
        print(f'\nStopped by {name}. {self.outlook()}'.rstrip(), file=sys.stderr, flush=True)
        if torch_dist.is_initialized():
            leave(self.exit_code)
        return True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        raise KeyboardInterrupt


def command_line(command: str, argv: Sequence[str], launcher: str) -> str:
    """What a user types to run `mmkd train` or `mmkd test` with these arguments.

    Args:
        command: ``'train'`` or ``'test'``.
        argv: The command's arguments, as it got them.
        launcher: What started the processes.
    """
    if launcher != 'pytorch':
        return shlex.join(['mmkd', command, *argv])
    place = list(argv).index('--launcher')  # behind the config, where dist-train puts it
    processes = os.environ.get('LOCAL_WORLD_SIZE', '1')
    return shlex.join(['mmkd', f'dist-{command}', *argv[:place], processes, *argv[place + 2 :]])
