"""tools/gpu_check.sh with stand-ins for the environment and for Python; what they would do is tried with ``--cpu``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FAKE_PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$CALLS"
[[ -z ${HANG:-} || $* != *$HANG* ]] || sleep 60
[[ -z ${FAIL:-} || $* != *$FAIL* ]] || { echo 'ValueError: so it was meant' && exit 3; }
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for path, content in {
        'tools/setup_env.sh': 'echo "setup: .venv is ready"',
        '.venv/bin/python': FAKE_PYTHON,
    }.items():
        made = tmp_path / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(content)
        made.chmod(0o755)
    shutil.copy(ROOT / 'tools' / 'gpu_check.sh', tmp_path / 'tools')
    return tmp_path


def run(clone: Path, *options: str, **environment: str) -> tuple[int, dict[str, str], str]:
    """Exit code, result of each part, and the report."""
    process = subprocess.run(
        ['bash', 'tools/gpu_check.sh', *options],
        cwd=clone,
        env=os.environ | {'CALLS': str(clone / 'calls')} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    path = clone / 'work_dirs' / 'gpu_check' / 'report.md'
    report = path.read_text() if path.exists() else process.stderr
    rows = [line.strip('| ').split(' | ') for line in report.splitlines() if line[:2] == '| ']
    return process.returncode, {row[0]: row[1] for row in rows[1:]}, report


def test_every_part_runs_at_full_size_and_in_small(clone: Path) -> None:
    parts = dict.fromkeys(('environment', 'tests', 'benchmark', 'training'), 'passed')
    assert run(clone)[:2] == (0, parts)
    calls = (clone / 'calls').read_text()
    for said in ('-m gpu', '--amp --size 800 1333', '--size 800\n', 'scale=(1333,800)'):
        assert said in calls

    assert run(clone, '--cpu')[:2] == (0, parts)
    small = (clone / 'calls').read_text().removeprefix(calls)
    assert '--amp' not in small
    assert '1333' not in small


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(clone: Path) -> None:
    code, parts, report = run(
        clone, FAIL='benchmark_speed', HANG='-m pytest', GPU_CHECK_SECONDS='3'
    )
    assert code == 1
    assert parts['tests'].startswith('ended after its')
    assert parts['benchmark'] == 'failed, exit status 3'
    assert parts['training'] == 'passed'
    assert 'ValueError: so it was meant' in report


def test_an_unknown_option_is_refused(clone: Path) -> None:
    code, parts, said = run(clone, '--gpu')
    assert (code, parts) == (2, {})
    assert 'unknown option --gpu' in said
