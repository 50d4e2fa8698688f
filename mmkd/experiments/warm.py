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
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path


def start_script(
    words: Sequence[str], log: Path, threads: int, modules: Sequence[str]
) -> BaseProcess:
    """Run ``python SCRIPT ARGUMENTS`` in a session of its own, forked where ``modules`` are imported.

    Args:
        words: script and arguments.
        log: the file that its output is added to.
        threads: PyTorch's and OpenMP's threads.
        modules: what the fork server imports; only the first call of a process decides.

    Returns:
        The process; its ``exitcode`` is None while it runs.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['__main__', __name__, *modules])
    with _silence():  # what packages say about themselves while they are imported
        forkserver.ensure_running()
    process = context.Process(
        target=_run, args=(list(words), dict(os.environ), str(log), os.getcwd(), threads)
    )
    process.start()
    return process


def _run(argv: list[str], environment: dict[str, str], log: str, folder: str, threads: int) -> None:
    # Ctrl-C in the terminal reaches the process that started this one, which stops it once, in order.
    os.setsid()
    # As in any script; the fork server's children would start theirs as it does.
    multiprocessing.set_start_method('fork', force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _redirect(log)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    # What is forked from one process must not draw the same numbers where no seed is set.
    for seed in (random.seed, np.random.seed, torch.seed):
        seed()
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
