"""tools/setup_env.sh with a stand-in for Python, pip and uv that installs nothing and notes its calls.

What is real here: the script, its stamp, its lock, its signals. The installation itself is what CI
does on every fresh machine.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the script may call: the machine it runs on has no more than a base system.
COMMANDS = """
    awk basename bash cat cp cut df dirname env flock grep head mkdir
    mv nproc rm sha256sum sleep touch uname
"""

FAKE_PYTHON = r"""#!/usr/bin/env bash
# Calls go to $FAKE/calls. Files in $FAKE steer what happens: see the tests.
printf '%s\n' "${*//$'\n'/ }" >>"$FAKE/calls"
if [[ -e $FAKE/hang && $* == *"$(cat "$FAKE/hang")"* ]]; then
  echo $$ >"$FAKE/hanging"
  while [[ -e $FAKE/hang ]]; do sleep 0.05; done
fi
case "$*" in
  *ensurepip*) [[ ! -e $FAKE/problem ]] || { cat "$FAKE/problem" >&2; exit 1; } ;;
  *version_info*) cat "$FAKE/version" ;;
  *'get_paths()["purelib"])')
    folder=${0%/bin/python}/lib/python3.11/site-packages
    mkdir -p "$folder"
    echo "$folder" ;;
  *'for path in sys.path'*) echo /opt/torch/site-packages ;;
  *'importlib.metadata import distributions'*) grep '^timm==' ;;
  *get_config_var*) echo '2.12.1 False cpython-311' ;;
  *include_paths*) echo '-I/torch/include' ;;
  '-m venv '*)
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    printf 'home = /fake\nversion = 3.11.7\ncommand = /fake/python -m venv %s\n' "$3" >"$3/pyvenv.cfg" ;;
  '-m uv pip show'*) exit 1 ;;
  '-m uv pip install '*' -r -') cat >"$FAKE/packages" ;;
  '-m pip wheel'*)
    printf 'CFLAGS=%s\n' "$CFLAGS" >>"$FAKE/calls"
    [[ $CFLAGS != *-include* || ! -e $FAKE/precompiled_header_fails ]] || exit 1
    while [[ $1 != --wheel-dir ]]; do shift; done
    touch "$2/onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl"
    rm -f "$FAKE/mmcv_broken" ;;
  *'import nms'*) [[ ! -e $FAKE/mmcv_broken ]] ;;
esac
"""

FAKE_COMPILER = r"""#!/usr/bin/env bash
printf 'c++ %s\n' "$*" >>"$FAKE/calls"
[[ $* != *c++-header* || ! -e $FAKE/no_precompiled_header ]]
"""

FAKE_DF = """#!/usr/bin/env bash
printf 'Filesystem 1024-blocks Used Available Capacity Mounted\\n/dev/x 9 9 %s 9%% /\\n' "$FREE_KB"
"""


class Clone:
    """A copy of what the script needs, and a PATH on which Python is the stand-in above."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / 'clone'
        self.fake = folder / 'fake'
        self.bin = folder / 'bin'
        for made in (self.root / 'tools', self.root / 'mmkd', self.fake, self.bin):
            made.mkdir(parents=True)
        shutil.copy(ROOT / 'tools' / 'setup_env.sh', self.root / 'tools')
        shutil.copytree(ROOT / 'requirements', self.root / 'requirements')
        shutil.copy(ROOT / 'setup.py', self.root)
        (self.root / 'mmkd' / '__init__.py').write_text("__version__ = '0.1.0'\n")
        for command in COMMANDS.split():
            (self.bin / command).symlink_to(shutil.which(command) or pytest.fail(command))
        self.write_command('python3.11', FAKE_PYTHON)
        self.write_command('c++', FAKE_COMPILER)
        self.set_state('version', '3.11')
        self.environment = {
            'PATH': str(self.bin),
            'HOME': str(folder),
            'FAKE': str(self.fake),
            'TMPDIR': str(folder),
        }

    def write_command(self, name: str, source: str) -> Path:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(source.replace('/usr/bin/env bash', shutil.which('bash') or ''))
        path.chmod(0o755)
        return path

    def set_state(self, name: str, content: str = '') -> None:
        (self.fake / name).write_text(content)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.bin / 'bash'), 'tools/setup_env.sh', *arguments],
            cwd=self.root,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # As in a terminal, also where the tests run with SIGINT ignored (in the background).
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def take_calls(self) -> list[str]:
        """Return what the stand-ins were called with since the last time this was asked."""
        calls = self.fake / 'calls'
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines

    @property
    def finished(self) -> bool:
        return (self.root / '.venv' / '.setup' / 'made_from').exists()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.fixture
def hanging(clone: Clone) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start set-ups that stay in the call with the given words while $FAKE/hang exists."""
    started: list[subprocess.Popen[str]] = []

    def start(call: str) -> subprocess.Popen[str]:
        clone.set_state('hang', call)
        started.append(clone.start())
        wait_for(lambda: (clone.fake / 'hanging').exists())
        return started[-1]

    yield start
    (clone.fake / 'hang').unlink(missing_ok=True)
    for process in started:
        process.communicate(timeout=60)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'timed out'
        time.sleep(0.02)


def installs(calls: list[str]) -> list[str]:
    """Return the calls that change the environment, each named by what it installs."""
    known = {
        r'-m venv': 'venv',
        r'-m uv pip install .*--reinstall .* -r -': 'packages again',
        r'-m uv pip install .* -r -': 'packages',
        r'-m pip wheel .*onedl-mmcv==': 'mmcv build',
        r'-m uv pip install .*onedl_mmcv-.*\.whl': 'mmcv wheel',
        r'-m uv pip install .*--editable': 'mmkd',
        r'-m uv pip install .*--no-deps -r .*/requirements/docs\.txt': 'docs',
    }
    named = (
        next((name for pattern, name in known.items() if re.search(pattern, call)), None)
        for call in calls
    )
    return [name for name in named if name is not None]


def test_the_packages_of_the_documentation_come_only_where_they_are_asked_for(clone: Clone) -> None:
    assert clone.run()[0] == 0
    assert 'docs' not in installs(clone.take_calls())

    code, output = clone.run('--docs')

    assert code == 0, output
    assert installs(clone.take_calls()) == ['docs']


def test_builds_everything_then_nothing(clone: Clone) -> None:
    code, output = clone.run()

    assert code == 0, output
    expected = ['venv', 'packages', 'mmcv build', 'mmcv wheel', 'mmkd']
    assert installs(clone.take_calls()) == expected
    packages = (clone.fake / 'packages').read_text()
    assert 'torch==' in packages
    assert 'mmcv' not in packages
    assert 'sphinx' not in packages.lower()

    code, output = clone.run()

    assert (code, output) == (0, 'setup: .venv is ready\n')
    assert clone.take_calls() == []


@pytest.mark.parametrize(
    ('file', 'old', 'new', 'redone'),
    [
        ('requirements/constraints.txt', 'tqdm==', 'tqdm==0.0.', True),
        ('requirements/constraints.txt', '# Every', '# Each', False),
        ('setup.py', "name='mmkd'", "name='mmkd2'", True),
        ('mmkd/__init__.py', '0.1.0', '0.2.0', True),
    ],
)
def test_a_change_of_what_it_is_made_from_brings_it_up_to_date(
    clone: Clone, file: str, old: str, new: str, redone: bool
) -> None:
    clone.run()
    clone.take_calls()
    path = clone.root / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))

    code, output = clone.run()

    assert code == 0, output
    # The compiled operators come from the cache.
    assert installs(clone.take_calls()) == ['packages', 'mmcv wheel', 'mmkd'] * redone


def test_a_moved_environment_is_installed_again(clone: Clone) -> None:
    clone.run()
    clone.take_calls()
    clone.root = clone.root.rename(clone.root.with_name('moved'))

    code, output = clone.run()

    assert code == 0, output
    assert installs(clone.take_calls()) == ['venv', 'packages again', 'mmcv wheel', 'mmkd']


def test_a_cached_wheel_that_does_not_work_is_built_again(clone: Clone) -> None:
    clone.run()
    shutil.rmtree(clone.root / '.venv')
    clone.take_calls()
    clone.set_state('mmcv_broken')  # as one compiled for another torch would be

    code, output = clone.run()

    assert code == 0, output
    made = [name for name in installs(clone.take_calls()) if 'mmcv' in name]
    assert made == ['mmcv wheel', 'mmcv build', 'mmcv wheel']


def compiled_with_header(calls: list[str]) -> list[bool]:
    return ['-include ' in call for call in calls if call.startswith('CFLAGS=')]


def test_compiles_with_optimisation_and_precompiled_header(clone: Clone) -> None:
    clone.run()

    calls = clone.take_calls()
    assert compiled_with_header(calls) == [True]
    header = next(call for call in calls if 'c++-header' in call)
    build = next(call for call in calls if call.startswith('CFLAGS='))
    for flag in ('-O2', '-DNDEBUG', '-fwrapv', '-g0'):
        # The compiler takes a precompiled header only with the flags it was made with.
        assert flag in header.split()
        assert flag in build.removeprefix('CFLAGS=').split()


@pytest.mark.parametrize(
    ('failure', 'expected'),
    [('no_precompiled_header', [False]), ('precompiled_header_fails', [True, False])],
)
def test_falls_back_to_a_plain_build(clone: Clone, failure: str, expected: list[bool]) -> None:
    clone.set_state(failure)

    code, output = clone.run()

    assert code == 0, output
    assert compiled_with_header(clone.take_calls()) == expected
    assert 'building without' in output


def test_names_a_missing_compiler(clone: Clone) -> None:
    (clone.bin / 'c++').unlink()

    code, output = clone.run()

    assert code == 1
    assert "no C++ compiler: 'c++' is not on the PATH" in output
    assert 'apt-get install g++' in output
    assert installs(clone.take_calls()) == []


def test_names_what_is_wrong_with_each_python(clone: Clone) -> None:
    clone.set_state('problem', 'it is Python 3.10')

    code, output = clone.run()

    assert code == 1
    assert 'python3.11: it is Python 3.10; python3.12: command not found' in output
    assert 'PYTHON=/path/to/python3.11' in output
    assert installs(clone.take_calls()) == []

    code, output = clone.run(PYTHON='/nowhere/python')

    assert code == 1
    assert '/nowhere/python: No such file' in output


def test_names_another_python_than_the_environments(clone: Clone) -> None:
    clone.run()
    other = clone.write_command('python3.12', '#!/usr/bin/env bash\necho 3.12\n')

    code, output = clone.run(PYTHON=str(other))

    assert code == 1
    assert f'PYTHON={other}' in output
    assert 'remove' in output


def test_names_missing_disk_space(clone: Clone) -> None:
    clone.write_command('df', FAKE_DF)

    code, output = clone.run(FREE_KB=str(3 * 1024**2))

    assert code == 1
    assert f'{clone.root} has 3 GB of free disk space; 12 GB are needed' in output
    assert 'free some' in output
    assert clone.run(FREE_KB=str(13 * 1024**2))[0] == 0


@pytest.mark.parametrize('call', ['-m venv', '-r -', 'pip wheel'])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_goes_on_after_an_interruption(
    clone: Clone,
    hanging: Callable[[str], subprocess.Popen[str]],
    call: str,
    number: signal.Signals,
) -> None:
    process = hanging(call)

    os.killpg(process.pid, number)  # a terminal's Ctrl-C reaches what the script started, too

    process.communicate(timeout=20)
    assert process.returncode != 0
    assert not clone.finished
    (clone.fake / 'hang').unlink()
    clone.take_calls()
    code, output = clone.run()

    assert code == 0, output
    # Packages may be half installed.
    again = 'packages' if call == 'pip wheel' else 'packages again'
    assert again in installs(clone.take_calls()) or call == '-m venv'
    assert clone.finished


def test_goes_on_after_a_kill(
    clone: Clone, hanging: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = hanging('-r -')

    process.kill()
    process.wait(timeout=20)
    clone.take_calls()
    following = clone.start()
    time.sleep(0.3)
    # The installation that nothing could end still has the lock.
    assert following.poll() is None
    (clone.fake / 'hang').unlink()
    output, _ = following.communicate(timeout=60)

    assert following.returncode == 0, output
    assert 'waiting for it' in output
    assert 'packages again' in installs(clone.take_calls())


def test_two_calls_at_once_install_once(
    clone: Clone, hanging: Callable[[str], subprocess.Popen[str]]
) -> None:
    first = hanging('-r -')
    second = clone.start()
    time.sleep(0.3)
    assert second.poll() is None

    (clone.fake / 'hang').unlink()
    first_output, _ = first.communicate(timeout=60)
    second_output, _ = second.communicate(timeout=60)

    assert first.returncode == 0, first_output
    assert second.returncode == 0, second_output
    assert 'another set-up of this .venv is running; waiting for it' in second_output
    assert installs(clone.take_calls()).count('mmkd') == 1


def test_everything_asked_for_is_pinned() -> None:
    pins = (ROOT / 'requirements' / 'constraints.txt').read_text().splitlines()
    pinned = {line.partition('==')[0].lower() for line in pins if not line.startswith('#')}

    assert all(re.fullmatch(r'[\w.-]+==[\w.+]+|#.*', line) for line in pins)
    for name in ('build', 'onedl', 'dev'):
        lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
        asked = {re.split('[<>=]', line)[0] for line in lines if re.match('[a-z]', line)}
        assert asked, name
        assert asked <= pinned, name
    # Two builds that overwrite each other.
    assert len({'opencv-python', 'opencv-python-headless'} & pinned) == 1


def test_a_new_environment_may_use_the_packages_that_are_there(clone: Clone) -> None:
    code, output = clone.run(KEEP_PACKAGES='1')

    assert code == 0, output
    (kept,) = (clone.root / '.venv').glob('lib/python*/site-packages/kept.pth')
    assert kept.read_text() == '/opt/torch/site-packages\n'
    assert re.fullmatch(r'timm==\S+\n', (clone.fake / 'packages').read_text())
