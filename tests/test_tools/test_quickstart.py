from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(REPOSITORY / 'tools' / 'quickstart.py'), '--smoke']


@pytest.fixture(scope='module')
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of the smallest quickstart, started from a strange folder."""
    folder = tmp_path_factory.mktemp('quickstart')
    run = subprocess.run(
        [*COMMAND, '--work-dir', 'results'],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != 'PYTHONPATH'},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / 'results', run.stdout


def test_the_three_models_are_compared(smoke: tuple[Path, str]) -> None:
    work_dir, output = smoke
    results = json.loads((work_dir / 'results.json').read_text())
    assert list(results) == ['teacher', 'plain student', 'CKD student']
    plain, distilled = results['plain student'], results['CKD student']
    # A distilled student is evaluated as what it is: the plain one, with other weights.
    assert distilled['test_config'] == plain['config'] == plain['test_config']
    assert distilled['parameters'] == plain['parameters'] < results['teacher']['parameters']
    assert distilled['epochs'] == plain['epochs'] == 1
    assert all('coco/bbox_mAP' in row['metrics'] for row in results.values())
    assert (work_dir / 'results.md').read_text().strip() in output
    assert output.count('\n| CKD student ') == 1


def test_students_differ_in_the_distillation_only(smoke: tuple[Path, str]) -> None:
    work_dir, _ = smoke
    results = json.loads((work_dir / 'results.json').read_text())
    teacher = results['teacher']['checkpoint']
    plain = results['plain student']['options']
    assert results['CKD student']['options'] == [*plain, f'model.teacher.checkpoint={teacher}']
    assert 'randomness.seed=0' in plain


def test_the_picture_is_drawn(smoke: tuple[Path, str]) -> None:
    work_dir, _ = smoke
    picture = cv2.imread(str(work_dir / 'report.png'))
    assert picture is not None
    # Four columns of images, and rows for two images and the curves.
    assert picture.shape[1] > 1000
    assert picture.shape[0] > 800


def test_progress_names_each_stage(smoke: tuple[Path, str]) -> None:
    _, output = smoke
    for number in range(1, 9):
        assert f'[{number}/8]' in output
    assert 'teacher              epoch 1/1' in output


def test_a_second_call_reuses_everything(smoke: tuple[Path, str]) -> None:
    work_dir, _ = smoke
    checkpoints = {path: path.stat().st_mtime_ns for path in work_dir.glob('*/*.pth')}
    assert len(checkpoints) == 3
    run = subprocess.run(
        [*COMMAND, '--work-dir', str(work_dir)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count('nothing to do, trained before') == 3
    assert run.stdout.count('nothing to do, evaluated before') == 3
    assert {path: path.stat().st_mtime_ns for path in checkpoints} == checkpoints


def test_an_interruption_stops_the_trainings_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [*COMMAND, '--work-dir', str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    for line in run.stdout:
        if 'plain student' in line:
            break
    time.sleep(2)
    run.send_signal(signal.SIGTERM)
    rest, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert 'the same command goes on from there' in rest
    left = subprocess.run(['ps', '-eo', 'args'], capture_output=True, text=True).stdout
    assert str(tmp_path) not in left


def test_classification_ends_with_top_1_of_four_models_and_a_picture(
    tmp_path: Path,
) -> None:
    run = subprocess.run(
        [*COMMAND, '--task', 'classification', '--work-dir', str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads((tmp_path / 'results.json').read_text())
    assert list(results) == ['teacher', 'plain student', 'CKD student', 'AEKT student']
    plain = results.pop('plain student')
    teacher = results.pop('teacher')
    for row in results.values():
        assert row['test_config'] == plain['config']
        assert row['options'] == [
            *plain['options'],
            f'model.teacher.checkpoint={teacher["checkpoint"]}',
        ]
        assert row['parameters'] == plain['parameters'] < teacher['parameters']
        assert 0 <= row['metrics']['accuracy/top1'] <= row['metrics']['accuracy/top5'] <= 100
    assert (tmp_path / 'results.md').read_text().strip() in run.stdout
    assert '[10/10] report' in run.stdout
    assert 'epoch 1/1' in run.stdout
    picture = cv2.imread(str(tmp_path / 'report.png'))
    # Four columns: correlation matrices, their differences, and the curves.
    assert picture.shape[1] > 1000
    assert picture.shape[0] > 800


@pytest.mark.parametrize('arguments', [['--jobs', '0'], ['--task', 'unknown']])
def test_wrong_arguments_are_refused(
    load_tool: Callable[[str], ModuleType], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit, match='2'):
        load_tool('quickstart').parse_args(arguments)


def test_every_column_and_a_missing_size_are_written(
    load_tool: Callable[[str], ModuleType],
) -> None:
    quickstart = load_tool('quickstart')
    assert quickstart.cell(25.649) == '25.6'
    assert quickstart.cell(None) == '–'
