"""A script that is forked behaves as one that is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmkd.experiments.warm import start_warm

SCRIPT = """
import os, random, sys, time
import torch
print('hello from', sys.argv[1:], __name__, os.environ['WORD'], os.getcwd(), torch.get_num_threads())
print(random.random(), torch.rand(1).item(), os.getsid(0) == os.getpid(), file=sys.stderr)
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(code: str) -> list[str]:
        path = tmp_path / 'script.py'
        path.write_text(code)
        return [sys.executable, str(path)]

    return write


def run(command: list[str], log: Path, threads: int = 1) -> int | None:
    process = start_warm(command, os.environ | {'WORD': 'abc'}, log, threads, ['json'])
    process.wait()
    return process.returncode


def test_arguments_environment_output_and_threads(write, tmp_path, monkeypatch) -> None:
    log = tmp_path / 'console.log'
    log.write_text('before\n')
    monkeypatch.chdir(tmp_path)
    assert run([*write(SCRIPT), 'a', 'b c'], log, threads=2) == 0
    assert run([*write(SCRIPT), 'd'], log) == 0
    before, first, first_numbers, second, second_numbers = log.read_text().splitlines()
    assert before == 'before'
    assert first == f"hello from ['a', 'b c'] __main__ abc {tmp_path} 2"
    assert second == f"hello from ['d'] __main__ abc {tmp_path} 1"
    # Each a session of its own, and neither draws the other's numbers.
    assert first_numbers.endswith(' True')
    for one, other in zip(first_numbers.split()[:2], second_numbers.split()[:2], strict=True):
        assert one != other


@pytest.mark.parametrize(
    ('code', 'expected'),
    [
        ('raise SystemExit(3)', 3),
        ('1 / 0', 1),
        ('import os, signal; os.kill(os.getpid(), signal.SIGKILL)', -9),
    ],
)
def test_exit_codes(write, tmp_path, code: str, expected: int) -> None:
    log = tmp_path / 'console.log'
    assert run(write(code), log) == expected
    assert ('ZeroDivisionError' in log.read_text()) == (code == '1 / 0')


def test_the_modules_are_there_already(write, tmp_path) -> None:
    log = tmp_path / 'console.log'
    assert run(write("import sys; print('torch' in sys.modules)"), log) == 0
    # Another interpreter has to import it.
    plain = subprocess.run(
        write("import sys; print('torch' in sys.modules)"), capture_output=True, text=True
    )
    assert (log.read_text(), plain.stdout) == ('True\n', 'False\n')


def test_an_interruption_reaches_the_script(write, tmp_path) -> None:
    log = tmp_path / 'console.log'
    code = """
import time
try:
    print('ready')
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(7)
"""
    process = start_warm(write(code), dict(os.environ), log, 1, ['json'])
    deadline = time.monotonic() + 60
    while 'ready' not in (log.read_text() if log.exists() else ''):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
    assert process.returncode == 7
