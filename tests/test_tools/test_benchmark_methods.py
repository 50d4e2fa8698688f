from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmkd.datasets import make_shapes
from mmkd.experiments import DETECTION
from mmkd.report import COCO_COLUMNS, TOP_K_COLUMNS

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(
    load_tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    monkeypatch.chdir(REPOSITORY)
    return load_tool('benchmark_methods')


@pytest.fixture
def parse(benchmark: ModuleType, tmp_path: Path) -> Callable[..., argparse.Namespace]:
    """Read a command line whose results go to ``tmp_path``."""

    def parse(*arguments: str) -> argparse.Namespace:
        return benchmark.parse_args([*arguments, '--work-dir', str(tmp_path / 'work')])

    return parse


def run_result(average_precision: float, seconds: float = 60.0, large: float = 0.5) -> dict:
    metrics = {f'coco/bbox_mAP{suffix}': average_precision for suffix in ('', '_50', '_75')}
    sizes = {f'coco/bbox_mAP{suffix}': large for suffix in ('_s', '_m', '_l')}
    return {'metrics': metrics | sizes, 'seconds': seconds}


def test_methods_are_rows_with_a_config_each_and_plain_is_first(
    benchmark: ModuleType, parse: Callable[..., argparse.Namespace]
) -> None:
    options = ['model.losses.ckd.temperature=4', 'model.losses.ckd.weight=2']
    args = parse('--methods', 'ckd', 'plain', '--variant', 'ckd-t4:ckd', *options)
    methods = benchmark.methods_of(args)
    assert [method.name for method in methods] == ['plain', 'ckd', 'ckd-t4']
    assert methods[0].config == 'configs/shapes/retinanet_student.py'
    assert methods[1].config == methods[2].config == 'configs/shapes/retinanet_ckd.py'
    assert methods[2].options == tuple(options)
    assert [method.needs_teacher for method in methods] == [False, True, True]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--methods', 'plain', 'cdk'], r'retinanet_cdk\.py; of retinanet there is: .*ckd'),
        (['--methods', 'ckd'], 'plain must be among them'),
        (['--model', 'yolo'], r'--model yolo: .*yolo_student\.py; .*: dino, .*fcos, retinanet'),
        (['--model', 'yolo', '--config-dir', 'docs'], '--model yolo: .*give another --config-dir'),
        (['--variant', 'ckd-t4', 'a=1'], 'must be NAME:METHOD'),
        (['--variant', 'ckd:ckd', 'a=1'], 'different names'),
        (['--variant', 'a/b:ckd', 'a=1'], 'letters, digits'),
    ],
)
def test_what_is_not_there_is_named(
    benchmark: ModuleType,
    parse: Callable[..., argparse.Namespace],
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(benchmark.Usage, match=message):
        benchmark.methods_of(parse(*arguments))


@pytest.mark.parametrize('arguments', [['--jobs', '0'], ['--seeds', '1', '1'], ['--seeds', 'x']])
def test_wrong_arguments_are_refused(benchmark: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        benchmark.parse_args(arguments)


def test_runs_of_a_seed_differ_in_the_method_only(
    benchmark: ModuleType, parse: Callable[..., argparse.Namespace], tiny_coco: Path
) -> None:
    args = parse('--seeds', '3', '4', '--variant', 'hot:ckd', 'model.losses.ckd.temperature=4')
    teacher, evaluations = benchmark.plan(args, benchmark.methods_of(args), DETECTION, tiny_coco)
    assert list(evaluations) == [
        ('plain', 3), ('ckd', 3), ('hot', 3), ('plain', 4), ('ckd', 4), ('hot', 4),
    ]  # fmt: skip
    plain, ckd, hot = (evaluations[name, 4].training for name in ('plain', 'ckd', 'hot'))
    assert set(ckd.options) - set(plain.options) == {
        f'model.teacher.checkpoint={teacher.checkpoint}'
    }
    assert set(hot.options) - set(ckd.options) == {'model.losses.ckd.temperature=4'}
    assert 'randomness.seed=4' in plain.options
    assert plain.after == ()
    assert ckd.after == ('teacher',)
    # Another teacher is another comparison, so its file counts for what is reused.
    assert teacher.checkpoint in ckd.inputs
    assert teacher.checkpoint not in plain.inputs
    assert plain.threads == ckd.threads == 1
    # The last epoch is evaluated afterwards; during the training nothing is looked at.
    assert f'train_cfg.val_begin={plain.epochs + 1}' in plain.options
    work_dirs = {run.training.work_dir for run in evaluations.values()}
    assert len(work_dirs) == len(evaluations)


def test_a_given_teacher_is_not_trained_and_plain_alone_needs_none(
    benchmark: ModuleType, parse: Callable[..., argparse.Namespace], tiny_coco: Path, tmp_path: Path
) -> None:
    given = tmp_path / 'teacher.pth'
    args = parse('--seeds', '0', '--teacher', str(given))
    teacher, evaluations = benchmark.plan(args, benchmark.methods_of(args), DETECTION, tiny_coco)
    ckd = evaluations['ckd', 0].training
    assert teacher is None
    assert ckd.after == ()
    assert f'model.teacher.checkpoint={given}' in ckd.options
    args = parse('--seeds', '0', '--methods', 'plain')
    assert benchmark.plan(args, benchmark.methods_of(args), DETECTION, tiny_coco)[0] is None


def test_rows_against_plain_formulas(benchmark: ModuleType) -> None:
    plain, ckd = [0.10, 0.12, 0.11], [0.13, 0.13, 0.13]
    results: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in range(3):
        results['plain', seed] = run_result(plain[seed], seconds=60)
        results['ckd', seed] = run_result(ckd[seed], seconds=60 * (seed + 1))
    first, second = benchmark.summarize(['plain', 'ckd'], results, COCO_COLUMNS)
    assert first[:2] == ('plain', f'11.00 ± {statistics.stdev([10, 12, 11]):.2f}')
    assert first[-3:] == ('–', '3', '1.0 min')
    # Differences 3, 1, 2 points: deviation 1, t(0.975, 2) = 4.3027 from a printed table.
    half = 4.3027 / math.sqrt(3)
    assert second[1] == '13.00 ± 0.00'
    assert second[-3:] == (f'+2.00 [{2 - half:+.2f}, {2 + half:+.2f}]', '3', '2.0 min')


def test_classifiers_are_compared_by_top_1(benchmark: ModuleType) -> None:
    results = {
        (name, 0): {'metrics': {'accuracy/top1': top_1, 'accuracy/top5': 90.0}, 'seconds': 30.0}
        for name, top_1 in (('plain', 50.5), ('ckd', 53.0))
    }
    _, row = benchmark.summarize(['plain', 'ckd'], results, TOP_K_COLUMNS)
    assert row == ('ckd', '53.00', '90.00', '+2.50', '1', '0.5 min')


def test_one_seed_has_no_spread_and_a_missing_size_no_value(benchmark: ModuleType) -> None:
    results = {
        ('plain', 0): run_result(0.10, large=-1),
        ('ckd', 0): run_result(0.125, large=-1),
    }
    _, row = benchmark.summarize(['plain', 'ckd'], results, COCO_COLUMNS)
    assert row[1:4] == ('12.50', '12.50', '12.50')
    assert row[4:7] == ('–', '–', '–')
    assert row[7] == '+2.50'


def test_the_command_in_the_document_repeats_the_comparison(
    benchmark: ModuleType, parse: Callable[..., argparse.Namespace]
) -> None:
    arguments = [
        '--methods', 'plain', 'ckd', '--seeds', '0', '1', '--model', 'fcos',
        '--teacher', 'work_dirs/teacher.pth', '--data-root', '/data/shapes',
        '--variant', 'hot:ckd', 'a="[1, 2]"', '--cfg-options', 'b=2',
    ]  # fmt: skip
    args = parse(*arguments, '--jobs', '7', '--write', 'docs/x.md')
    line = benchmark.command_line(args)
    assert line == 'python tools/benchmark_methods.py ' + ' '.join(
        f"'{word}'" if '"' in word else word for word in arguments
    )


def test_from_training_to_the_document_and_again_without_training(
    tiny_coco: Path, tmp_path: Path
) -> None:
    """Two seeds of a tiny plain model, and of the same with another learning rate."""
    configs = tmp_path / 'configs'
    configs.mkdir()
    source = REPOSITORY / 'tests' / 'data' / 'tiny_retinanet.py'
    (configs / 'tiny_student.py').write_text(source.read_text())
    command = [
        sys.executable, str(REPOSITORY / 'tools' / 'benchmark_methods.py'),
        '--config-dir', 'configs', '--model', 'tiny', '--methods', 'plain',
        '--variant', 'slow:plain', 'optim_wrapper.optimizer.lr=0.001',
        '--seeds', '1', '--data-root', str(tiny_coco),
        '--work-dir', 'work', '--write', 'docs/results.md', '--block', 'tiny',
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}

    def run() -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    output = run()
    document = (tmp_path / 'docs' / 'results.md').read_text()
    assert document.startswith('<!-- begin tiny -->\n| Method |')
    assert document.count('\n| slow ') == 1
    content = json.loads((tmp_path / 'work' / 'tiny_results.json').read_text())
    assert [(row['method'], row['seed']) for row in content['runs']] == [('plain', 1), ('slow', 1)]
    assert 'optim_wrapper.optimizer.lr=0.001' in content['runs'][1]['options']
    assert all('coco/bbox_mAP' in row['metrics'] for row in content['runs'])
    assert 'mAP 0.' not in output, 'validated during the training'
    assert run().count('nothing to do') == 4
    assert (tmp_path / 'docs' / 'results.md').read_text() == document


def test_a_distilled_classifier_from_training_to_the_table(tmp_path: Path) -> None:
    """The digits' teacher and one student of each kind, for one epoch on a few images."""
    data = make_shapes(
        tmp_path / 'digits', train=40, val=20, categories='digits', task='classification', workers=1
    )
    command = [
        sys.executable, str(REPOSITORY / 'tools' / 'benchmark_methods.py'),
        '--config-dir', str(REPOSITORY / 'configs/shapes_cls'), '--model', 'digits',
        '--methods', 'plain', 'ckd', '--seeds', '1', '--data-root', str(data),
        '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=20',
        '--work-dir', str(tmp_path / 'work'),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / 'work' / 'digits_results.json').read_text())
    assert [row['Method'] for row in content['table']] == ['plain', 'ckd']
    for row in content['table']:
        assert 0 <= float(row['top-1']) <= float(row['top-5']) <= 100
        assert row['Seeds'] == '1'
    assert 'Accuracy in points on the validation images after the last of 1 epochs' in done.stdout
