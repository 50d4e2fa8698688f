"""Scripts started from a process that has imported their modules already.

Importing PyTorch and OpenMMLab's packages takes longer than the smallest trainings. A fork server imports them once;
each script is forked from it and otherwise runs as the command ``python SCRIPT ARGUMENTS`` would.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import runpy
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any


class WarmProcess:
    """A running script, to be asked as a :class:`subprocess.Popen` is."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid: int = process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def wait(self) -> None:
        """Wait for its end."""
        self._process.join()


def start_warm(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    threads: int,
    modules: Sequence[str],
) -> WarmProcess:
    """Run ``python SCRIPT ARGUMENTS`` in a session of its own, forked where ``modules`` are imported.

    Args:
        command: interpreter (the one that runs this), script and arguments.
        environment: its environment variables. Those that libraries read while they are imported have no effect.
        log: the file that its output is added to.
        threads: PyTorch's threads.
        modules: what the fork server imports; only the first call of a process decides.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['__main__', __name__, *modules])
    with _silence():  # what packages say about themselves while they are imported
        forkserver.ensure_running()
    process = context.Process(
        target=_run_script,
        args=(list(command[1:]), dict(environment), str(log), os.getcwd(), threads),
    )
    process.start()
    return WarmProcess(process)


def _run_script(
    argv: list[str], environment: dict[str, str], log: str, folder: str, threads: int
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _redirect(log)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _forget_random_state()
    import torch

    torch.set_num_threads(threads)
    sys.argv = argv
    sys.path.insert(0, str(Path(argv[0]).resolve().parent))
    runpy.run_path(argv[0], run_name='__main__')


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let processes that are started meanwhile write to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        for descriptor in kept:
            os.dup2(nowhere, descriptor)
        yield
    finally:
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


def _redirect(log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _forget_random_state() -> None:
    """What is forked from one process must not draw the same numbers where no seed is set."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()
    torch.seed()
