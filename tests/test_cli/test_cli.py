"""The command `mmkd` and the package that brings it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope

from mmkd import cli

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_command_has_its_function() -> None:
    for module, _ in cli.COMMANDS.values():
        name, _, function = module.partition(':')
        assert callable(getattr(importlib.import_module(name), function or 'main'))


@pytest.mark.parametrize(
    ('arguments', 'code', 'said'),
    [
        (['--help'], 0, 'convert-teacher'),
        ([], 2, 'usage: mmkd COMMAND'),
        (['trian'], 2, 'did you mean train?'),
        (['train', 'no_such_file.py'], 2, 'no_such_file.py'),
    ],
)
def test_the_exit_code_is_the_commands(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_help_and_the_launcher_do_not_wait_for_the_model_packages() -> None:
    script = """
import sys
from mmkd import cli
import mmkd.cli.launch
sys.argv = ['mmkd', '--help']
try:
    cli.run()
finally:
    assert 'mmdet' not in sys.modules
"""
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('usage: mmkd COMMAND')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of the files that git knows, as of a clone."""
    folder = tmp_path_factory.mktemp('wheel')
    packed = [
        'configs',
        'mmkd',
        'tools',
        'model-index.yml',
        'setup.py',
        'pyproject.toml',
        'LICENSE',
    ]
    files = subprocess.run(
        ['git', 'ls-files', '-z', *packed],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    ).stdout.split('\0')[:-1]  # fmt: skip
    for file in files:
        target = folder / 'clone' / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / file).is_symlink():
            target.symlink_to(os.readlink(REPOSITORY / file))
        elif (REPOSITORY / file).exists():
            target.write_bytes((REPOSITORY / file).read_bytes())
    subprocess.run(
        [sys.executable, 'setup.py', '-q', 'bdist_wheel', '-d', str(folder)],
        cwd=folder / 'clone', check=True, capture_output=True,
    )  # fmt: skip
    (built,) = folder.glob('mmkd-*.whl')
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / 'installed')
    return folder / 'installed'


def test_a_wheel_brings_the_command_and_every_config(wheel: Path) -> None:
    names = {path.relative_to(REPOSITORY) for path in (REPOSITORY / 'configs').rglob('*.*')}
    assert names == {
        path.relative_to(wheel / 'mmkd/.mim') for path in wheel.rglob('configs/**/*.*')
    }
    assert (wheel / 'mmkd/.mim/tools/train.py').is_file()
    (points,) = wheel.glob('*.dist-info/entry_points.txt')
    assert 'mmkd = mmkd.cli:run' in points.read_text()


def test_the_packages_configs_are_known_by_name(tmp_path: Path) -> None:
    named = get_config('mmkd::ckd/retinanet_r101_r50.py')
    assert named.model.losses.keys() == {'ckd'}
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'mmkd::ckd/retinanet_r101_r50.py'\n")
    assert Config.fromfile(child).model.student == named.model.student


def test_a_classifiers_config_is_built_by_name_as_a_base(tmp_path: Path) -> None:
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'mmkd::cifar100/plain_resnet20.py'\n")
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert MODELS.build(Config.fromfile(child).model).head.num_classes == 100
