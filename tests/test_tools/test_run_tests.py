"""tools/run_tests.sh and .ci/run: a failed check, or a run without a test, is not green."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# `python -m NAME` for a NAME in $FAILING fails; pytest is real, the other tools are left out.
FAKE_PYTHON = f"""#!/usr/bin/env bash
if [[ $1 == -m ]]; then
  [[ " $FAILING " != *" $2 "* ]] || exit 1
  [[ $2 == pytest ]] || exit 0
fi
exec {sys.executable} "$@"
"""

SKIPPED_TEST = """import pytest

@pytest.mark.skip(reason='not today')
def test_skipped():
    pass
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository whose set-up does nothing, with one test that passes and one that is skipped."""
    files = {
        'tools/setup_env.sh': 'echo set up',
        'tools/build_docs.sh': 'echo built',
        '.venv/bin/python': FAKE_PYTHON,
        '.venv/bin/shellcheck': '#!/usr/bin/env bash\necho "checked $*"',
        'tests/test_passes.py': 'def test_passes():\n    pass\n',
        'tests/test_fails.py': 'def test_fails():\n    assert False\n',
        'tests/test_skipped.py': SKIPPED_TEST,
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755)
    shutil.copy(ROOT / 'tools' / 'run_tests.sh', tmp_path / 'tools')
    shutil.copytree(ROOT / '.ci', tmp_path / '.ci')
    return tmp_path


def run(clone: Path, *command: str, failing: str = '') -> tuple[int, str]:
    # Started under pytest, this is to be a run of its own.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith('PYTEST')
    }
    process = subprocess.run(
        ['bash', *command],
        cwd=clone,
        env=environment | {'TEST_PROCESSES': '0', 'FAILING': failing},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return process.returncode, process.stdout


def test_a_run_in_which_every_test_was_skipped_is_red(clone: Path) -> None:
    code, output = run(clone, 'tools/run_tests.sh', 'tests/test_skipped.py')

    assert code == 1
    assert 'no test was executed' in output


def test_ci_is_green_when_every_check_passes(clone: Path) -> None:
    (clone / 'tests' / 'test_fails.py').unlink()

    code, output = run(clone, '.ci/run')

    assert code == 0, output
    assert 'set up' in output
    assert 'checked .ci/run tools/build_docs.sh tools/run_tests.sh tools/setup_env.sh' in output
    assert '= 1 passed, 1 skipped in ' in output
    assert 'ci: all checks passed' in output.splitlines()[-1]


def test_ci_runs_every_check_and_names_those_that_failed(clone: Path) -> None:
    code, output = run(clone, '.ci/run', failing='mypy')

    assert code == 1
    assert 'ci: failed: mypy tests' in output.splitlines()[-1]
    assert '= 1 failed, 1 passed, 1 skipped in ' in output
    assert '== ruff check: passed' in output


def test_ci_stops_when_the_set_up_fails(clone: Path) -> None:
    (clone / 'tools' / 'setup_env.sh').write_text('exit 3\n')

    code, output = run(clone, '.ci/run')

    assert code == 3
    assert 'ruff' not in output
