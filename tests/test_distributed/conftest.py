"""Starting the processes of a test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='session')
def launch() -> Callable[..., None]:
    """Run a script of this folder as several CPU processes and wait for them."""

    def run(script: str, processes: int, *arguments: object, timeout: int = 900) -> None:
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        folders = (REPOSITORY, REPOSITORY / 'tests', REPOSITORY / 'tests' / 'test_heads')
        environment = dict(
            os.environ,
            CUDA_VISIBLE_DEVICES='',
            OMP_NUM_THREADS='1',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
            WORLD_SIZE=str(processes),
            PYTHONPATH=os.pathsep.join(map(str, folders)),
        )
        command = [sys.executable, str(Path(__file__).parent / script), *map(str, arguments)]
        started = [
            subprocess.Popen(
                command,
                env=dict(environment, RANK=str(rank), LOCAL_RANK=str(rank)),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            for rank in range(processes)
        ]
        try:
            outputs = [process.communicate(timeout=timeout)[0] for process in started]
        finally:
            for process in started:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        assert not any(process.returncode for process in started), '\n'.join(outputs)

    return run
