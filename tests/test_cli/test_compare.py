from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from result_rows import row

from mmkd.cli import compare
from mmkd.experiments import Comparison
from mmkd.report import record

REPOSITORY = Path(__file__).resolve().parents[2]
STUDENT = f"""
_base_ = '{REPOSITORY}/tests/data/tiny_retinanet.py'
train_dataloader = dict(
    dataset=dict(_delete_=True, type='mmkd.SeededViews', views=2, dataset={{{{_base_.train_dataloader.dataset}}}})
)
"""


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A tiny family: plain configs of teacher and student."""
    folder = tmp_path / 'configs'
    folder.mkdir()
    for part in ('student', 'teacher'):
        (folder / f'tiny_{part}.py').write_text(STUDENT)
    return folder


def test_from_training_to_a_row_and_again_without_training(
    configs: Path, tiny_coco: Path, tmp_path: Path
) -> None:
    """One cell of CKD: a teacher, its store, the student, both evaluated."""
    arguments = [
        '--config-dir', 'configs', '--families', 'tiny', '--methods', 'ckd', 'dkd', '--seeds', '1',
        '--train-teacher', '--data-root', str(tiny_coco), '--results', 'results', '--work-dir', 'work',
    ]  # fmt: skip
    command = [sys.executable, str(REPOSITORY / 'tools' / 'benchmark_methods.py'), *arguments]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert 'left out: tiny, dkd' in run.stdout
    ckd, teacher = json.loads((tmp_path / 'results' / 'tiny.json').read_text())
    assert (ckd['method'], ckd['seed'], teacher['method']) == ('ckd', 1, 'teacher')
    for each in (ckd, teacher):
        assert each['split'] == 'test'
        assert each['seconds'] > 0
        assert 'coco/bbox_mAP' in each['metrics']
    # All that repeats it, and the student learned from the store.
    scripts = [shlex.split(line)[1] for line in ckd['commands']]
    assert scripts == [
        'tools/train.py', 'tools/cache_teacher.py', 'tools/train.py', 'tools/test.py',
    ]  # fmt: skip
    assert 'model.teacher.store=' in ckd['commands'][2]
    assert 'randomness.seed=1' in ckd['commands'][2]
    folder = next((tmp_path / 'work' / 'tiny').glob('ckd-*/seed_1'))
    log = (folder / 'console.log').read_text()
    assert 'loss_ckd' in log
    assert 'Epoch(val)' not in log, 'validated during the training'
    assert 'spares each run in 2 epochs' in run.stdout

    os.chdir(tmp_path)
    args = compare.parse_args(arguments)
    os.chdir(REPOSITORY)
    comparison = Comparison(args.work_dir, args.results, (), args.data_root, args.train_teacher)
    cells = compare.cells_of(args, comparison)
    assert [cell.name for cell in cells] == ['tiny teacher', 'tiny ckd 1']
    assert comparison.jobs(cells) == []


def test_cells_go_seed_by_seed(configs: Path, tiny_coco: Path, tmp_path: Path) -> None:
    base = ['--config-dir', str(configs), '--data-root', str(tiny_coco), '--train-teacher']
    variant = ['--variant', 'hot:ckd', 'model.losses.ckd.temperature=4']
    args = compare.parse_args([*base, '--split', 'val', '--methods', 'plain', *variant])
    comparison = Comparison(tmp_path, tmp_path, (), args.data_root, True)
    cells = compare.cells_of(args, comparison)
    assert [cell.name.removeprefix('tiny ') for cell in cells] == [
        'teacher', 'plain 100', 'hot 100', 'plain 101', 'hot 101', 'plain 102', 'hot 102',
    ]  # fmt: skip
    assert cells[2].options == ('model.losses.ckd.temperature=4',)
    assert cells[2].base == 'ckd'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--families', 'yolo'], '--families yolo: there is tiny'),
        (['--methods', 'cdk'], "'cdk' has no preset"),
        (['--seeds', '100'], '--seeds 100: seeds of --split test are below 100'),
        (['--split', 'val', '--seeds', '99'], '--seeds 99: seeds of --split val are from 100 on'),
        (['--variant', 'ckd-t4:ckd', 'a=1'], '--variant ckd-t4:ckd: settings are chosen'),
        (['--split', 'val', '--variant', 'ckd-t4', 'a=1'], '--variant ckd-t4: NAME:METHOD'),
        (['--split', 'val', '--variant', 'ckd:ckd', 'a=1'], 'there is a row ckd already'),
        (
            ['--split', 'val', '--methods', 'plain', '--variant', 'ckd:ckd', 'a=1'],
            'there is a row ckd already',
        ),
        (
            ['--split', 'val', '--methods', 'kd', '--variant', 'plain:ckd', 'a=1'],
            'there is a row plain already',
        ),
        (['--split', 'val', '--variant', 'a/b:ckd', 'a=1'], 'letters, digits'),
        (['--split', 'val', '--variant', 'a:ckd', 'what=1'], 'what'),
    ],
)
def test_what_is_not_there_is_named(
    configs: Path,
    tiny_coco: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = ['--config-dir', str(configs), '--data-root', str(tiny_coco), '--train-teacher']
    assert compare.main([*base, '--list', *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments', [['--jobs', '0'], ['--seeds', 'x'], ['--cfg-options', 'train_cfg.max_epochs=1']]
)
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        compare.parse_args(arguments)


def test_tables_and_plot_are_made_from_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(5):
        record(tmp_path / 'results', row('plain', seed, 10.0 + seed))
        record(tmp_path / 'results', row('ckd', seed, 13.0 + seed * 1.1, date='2'))
    record(tmp_path / 'results', row('aekt', 0, 13.0, settings='old', date='0'))
    record(tmp_path / 'results', row('aekt', 1, 13.0))
    arguments = ['--tables', '--families', 'retinanet', '--results', str(tmp_path / 'results')]
    assert compare.main([*arguments, '--docs', str(tmp_path)]) == 0
    assert 'retinanet: rows with older settings are not shown: aekt' in capsys.readouterr().out
    document = (tmp_path / 'docs' / 'benchmark.md').read_text()
    assert '### retinanet' in document
    readme = (tmp_path / 'README.md').read_text()
    assert '**+3.20 [' in readme
    assert '(1 of 5)' in readme
    assert (tmp_path / 'docs' / 'images' / 'benchmark.png').exists()
    assert 'docs/images/benchmark.png' in readme
