"""tools/setup_env.sh with a stand-in for Python and pip that installs nothing and notes its calls.

What is real here: the script, its stamps, its lock, its signals. The installation itself is what CI
does on every fresh machine.
"""

from __future__ import annotations

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
    mktemp mv nproc rm sed sha256sum sleep tail touch tr uname
"""

FAKE_PYTHON = r"""#!/usr/bin/env bash
# Calls go to $FAKE/calls. Files in $FAKE steer what happens: see the tests.
printf '%s\n' "${*//$'\n'/ }" >>"$FAKE/calls"
if [[ -e $FAKE/hang && $* == *"$(cat "$FAKE/hang")"* ]]; then
  echo $$ >"$FAKE/hanging"
  while [[ -e $FAKE/hang ]]; do sleep 0.05; done
fi
case "$*" in
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
    printf 'home = /fake\nversion = %s.7\n' "$(cat "$FAKE/version")" >"$3/pyvenv.cfg" ;;
  '-m pip show'*) exit 1 ;;
  '-m pip wheel'*)
    printf 'CFLAGS=%s\n' "$CFLAGS" >>"$FAKE/calls"
    [[ $CFLAGS != *-include* || ! -e $FAKE/precompiled_header_fails ]] || exit 1
    while [[ $1 != --wheel-dir ]]; do shift; done
    touch "$2/onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl" ;;
  *'pip install'*onedl_mmcv*.whl) touch "$FAKE/mmcv_works" ;;
  *'pip install'*packages.txt*)
    [[ ! -e $FAKE/pip_output ]] || { cat "$FAKE/pip_output"; exit 1; } ;;
  '- 2.3.6') [[ -e $FAKE/mmcv_works ]] ;;
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

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.bin / 'bash'), 'tools/setup_env.sh'],
            cwd=self.root,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # As in a terminal, also where the tests run with SIGINT ignored (in the background).
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, **environment: str) -> tuple[int, str]:
        process = self.start(**environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def take_calls(self) -> list[str]:
        """Return what the stand-ins were called with since the last time this was asked."""
        calls = self.fake / 'calls'
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines

    def stamps(self) -> set[str]:
        state = self.root / '.venv' / '.setup'
        names = {path.name for path in state.iterdir()} if state.is_dir() else set()
        return names & {'venv', 'build_tools', 'packages', 'mmcv', 'mmkd', 'checked'}


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
        r'pip install .*build_tools\.txt': 'build tools',
        r'pip install .*packages\.txt': 'packages',
        r'pip wheel .*onedl-mmcv==': 'mmcv build',
        r'pip install .*onedl_mmcv-.*\.whl': 'mmcv wheel',
        r'pip install .*--editable': 'mmkd',
        r'pip ': 'other pip call',
    }
    ignored = r'pip (--version|show)'
    return [
        next(name for pattern, name in known.items() if re.search(pattern, call))
        for call in calls
        if re.search(r'-m (venv|pip)', call) and not re.search(ignored, call)
    ]


ALL_STEPS = {'venv', 'build_tools', 'packages', 'mmcv', 'mmkd', 'checked'}


def test_builds_every_step_then_nothing(clone: Clone) -> None:
    code, output = clone.run()

    assert code == 0, output
    assert clone.stamps() == ALL_STEPS
    assert installs(clone.take_calls()) == [
        'venv',
        'build tools',
        'packages',
        'mmcv build',
        'mmcv wheel',
        'mmkd',
    ]

    code, output = clone.run()

    assert (code, output) == (0, 'setup: .venv is ready\n')
    assert clone.take_calls() == []


@pytest.mark.parametrize(
    ('file', 'old', 'new', 'expected'),
    [
        ('requirements/constraints.txt', 'tqdm==', 'tqdm==0.0.', ['packages']),
        ('requirements/constraints.txt', '# Every', '# Each', []),
        ('requirements/constraints.txt', 'psutil==', 'psutil==0.0.', ['build tools', 'packages']),
        ('setup.py', 'mmkd-make-shapes', 'mmkd-shapes', ['mmkd']),
        ('mmkd/__init__.py', '0.1.0', '0.2.0', ['mmkd']),
    ],
)
def test_a_change_redoes_the_steps_made_from_it(
    clone: Clone, file: str, old: str, new: str, expected: list[str]
) -> None:
    clone.run()
    clone.take_calls()
    path = clone.root / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))

    code, output = clone.run()

    assert code == 0, output
    assert installs(clone.take_calls()) == expected
    assert clone.stamps() == ALL_STEPS


def test_another_torch_rebuilds_the_operators(clone: Clone) -> None:
    clone.run()
    clone.take_calls()
    constraints = clone.root / 'requirements' / 'constraints.txt'
    constraints.write_text(re.sub(r'(?m)^torch==.*', 'torch==2.99.0', constraints.read_text()))
    (clone.fake / 'mmcv_works').unlink()

    clone.run(MMKD_WHEEL_CACHE=str(clone.root / 'empty_cache'))

    assert installs(clone.take_calls()) == ['packages', 'mmcv build', 'mmcv wheel']


def test_a_moved_environment_is_redone(clone: Clone) -> None:
    clone.run()
    clone.take_calls()
    clone.root = clone.root.rename(clone.root.with_name('moved'))

    code, output = clone.run()

    assert code == 0, output
    assert {'build tools', 'packages', 'mmkd'} <= set(installs(clone.take_calls()))


def test_an_environment_made_by_hand_is_adopted(clone: Clone) -> None:
    subprocess.run(
        [str(clone.bin / 'python3.11'), '-m', 'venv', str(clone.root / '.venv')],
        env=clone.environment,
        check=True,
    )
    clone.set_state('mmcv_works')
    clone.take_calls()

    code, output = clone.run()

    assert code == 0, output
    assert installs(clone.take_calls()) == ['build tools', 'packages', 'mmkd']
    assert clone.stamps() == ALL_STEPS


def test_a_cached_wheel_is_used_and_one_that_does_not_work_is_built_again(clone: Clone) -> None:
    clone.run()
    shutil.rmtree(clone.root / '.venv')
    (clone.fake / 'mmcv_works').unlink()
    clone.take_calls()

    clone.run()

    assert [name for name in installs(clone.take_calls()) if 'mmcv' in name] == ['mmcv wheel']

    shutil.rmtree(clone.root / '.venv')
    (clone.fake / 'mmcv_works').unlink()
    python = clone.bin / 'python3.11'
    # The first installed wheel does not import, as one compiled for another torch would not.
    broken_once = '[[ -e $FAKE/broke ]] && touch "$FAKE/mmcv_works"; touch "$FAKE/broke"'
    python.write_text(python.read_text().replace('touch "$FAKE/mmcv_works"', broken_once))

    code, output = clone.run()

    assert code == 0, output
    assert [name for name in installs(clone.take_calls()) if 'mmcv' in name] == [
        'mmcv wheel',
        'mmcv build',
        'mmcv wheel',
    ]


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
    assert 'building without' in (clone.root / '.venv' / 'log' / 'mmcv.log').read_text()


def test_names_a_missing_compiler(clone: Clone) -> None:
    (clone.bin / 'c++').unlink()

    code, output = clone.run()

    assert code == 1
    assert "no C++ compiler: 'c++' is not on the PATH" in output
    assert 'apt-get install g++' in output
    assert installs(clone.take_calls()) == []


@pytest.mark.parametrize('version', ['3.8', '3.10', '3.13'])
def test_names_an_unsupported_python(clone: Clone, version: str) -> None:
    clone.set_state('version', version)

    code, output = clone.run(PYTHON=str(clone.bin / 'python3.11'))

    assert code == 1
    assert f'is Python {version}; the pinned packages need 3.11 or 3.12' in output
    assert 'set PYTHON to such an interpreter' in output


def test_names_a_missing_python(clone: Clone) -> None:
    (clone.bin / 'python3.11').rename(clone.bin / 'hidden')

    code, output = clone.run()

    assert code == 1
    assert 'no Python 3.11 or 3.12 on the PATH (python3 is missing)' in output
    assert 'PYTHON=/path/to/python3.11 bash tools/setup_env.sh' in output

    code, output = clone.run(PYTHON='/nowhere/python')

    assert code == 1
    assert 'PYTHON=/nowhere/python does not run' in output

    code, output = clone.run(PYTHON=str(clone.bin / 'hidden'))

    assert code == 0, output


def test_names_another_python_than_the_environments(clone: Clone) -> None:
    clone.run()
    other = clone.write_command('python3.12', '#!/usr/bin/env bash\necho 3.12\n')

    code, output = clone.run(PYTHON=str(other))

    assert code == 1
    assert re.search(r'\.venv has Python 3\.11, PYTHON=\S+ is 3\.12', output)
    assert 'remove' in output


def test_names_missing_disk_space(clone: Clone) -> None:
    clone.write_command('df', FAKE_DF)

    code, output = clone.run(FREE_KB=str(3 * 1024**2))

    assert code == 1
    assert f'{clone.root} has 3 GB of free disk space; 12 GB are needed' in output
    assert 'free some' in output
    assert clone.run(FREE_KB=str(13 * 1024**2))[0] == 0


@pytest.mark.parametrize(
    ('pip_output', 'expected'),
    [
        (
            'WARNING: Retrying: NewConnectionError\nERROR: No matching distribution found for tqdm',
            'the package index was not reached',
        ),
        (
            'ERROR: No matching distribution found for tqdm==0.0.1',
            'the package index has no tqdm==0.0.1',
        ),
        ('OSError: [Errno 28] No space left on device', 'free disk space'),
    ],
)
def test_names_what_pip_stumbled_over(clone: Clone, pip_output: str, expected: str) -> None:
    clone.set_state('pip_output', pip_output)

    code, output = clone.run()

    assert code == 1
    assert pip_output.splitlines()[-1] in output
    assert expected in output
    assert clone.stamps() == {'venv', 'build_tools'}


STEPS_AND_CALLS = [
    ('venv', '-m venv'),
    ('build_tools', 'build_tools.txt'),
    ('packages', 'packages.txt'),
    ('mmcv', 'pip wheel'),
    ('mmkd', '--editable'),
    ('checked', 'constraints.txt'),
]


@pytest.mark.parametrize(('sent', 'expected_code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize(('step', 'call'), STEPS_AND_CALLS)
def test_goes_on_after_an_interruption(
    clone: Clone,
    hanging: Callable[[str], subprocess.Popen[str]],
    step: str,
    call: str,
    sent: signal.Signals,
    expected_code: int,
) -> None:
    process = hanging(call)
    child = int((clone.fake / 'hanging').read_text())
    steps = [name for name, _ in STEPS_AND_CALLS]

    process.send_signal(sent)

    output, _ = process.communicate(timeout=20)
    assert process.returncode == expected_code
    assert 'run it again to go on' in output
    wait_for(lambda: not Path(f'/proc/{child}').exists())
    assert clone.stamps() == set(steps[: steps.index(step)])

    (clone.fake / 'hang').unlink()
    clone.take_calls()
    code, output = clone.run()

    assert code == 0, output
    assert any(call in made for made in clone.take_calls())
    assert clone.stamps() == ALL_STEPS


def test_goes_on_after_a_kill(
    clone: Clone, hanging: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = hanging('packages.txt')

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
    assert installs(clone.take_calls())[0] == 'packages'
    assert clone.stamps() == ALL_STEPS


def test_two_calls_at_once_install_once(
    clone: Clone, hanging: Callable[[str], subprocess.Popen[str]]
) -> None:
    first = hanging('packages.txt')
    second = clone.start()
    time.sleep(0.3)
    assert second.poll() is None

    (clone.fake / 'hang').unlink()
    first_output, _ = first.communicate(timeout=60)
    second_output, _ = second.communicate(timeout=60)

    assert first.returncode == 0, first_output
    assert second.returncode == 0, second_output
    assert 'another set-up of this .venv is running; waiting for it' in second_output
    assert installs(clone.take_calls()).count('packages') == 1


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
    assert re.fullmatch(
        r'timm==\S+\n', (clone.root / '.venv' / '.setup' / 'packages.txt').read_text()
    )
