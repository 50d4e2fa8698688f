from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from mmkd.cli.quickstart import parse_args

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_smallest_quickstart_ends_with_a_table_and_a_picture(tmp_path: Path) -> None:
    """Classification, which is the faster one; from a strange folder."""
    command = [
        sys.executable,
        str(REPOSITORY / 'tools' / 'quickstart.py'),
        '--smoke',
        '--train-teacher',
    ]
    run = subprocess.run(
        [*command, '--task', 'classification', '--work-dir', 'results'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    work_dir = tmp_path / 'results'
    rows = {
        row['method']: row for row in json.loads((work_dir / 'results/textured.json').read_text())
    }
    assert set(rows) == {'teacher', 'plain', 'ckd', 'aekt'}
    assert all(0 <= row['metrics']['accuracy/top1'] <= 100 for row in rows.values())
    assert 'model.teacher.store=' in rows['aekt']['commands'][2]
    text = (work_dir / 'results.md').read_text().strip()
    assert text in run.stdout
    assert [line.split('|')[1].strip() for line in text.splitlines()[2:]] == [
        'teacher', 'plain student', 'CKD student', 'AEKT student',
    ]  # fmt: skip
    # Similarities of four models and their distances; below, the curves.
    picture = cv2.imread(str(work_dir / 'report.png'))
    assert picture.shape[1] > picture.shape[0] > 500


@pytest.mark.parametrize('arguments', [['--jobs', '0'], ['--task', 'unknown']])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        parse_args(arguments)


def test_results_of_a_trial_are_kept_apart() -> None:
    folders = {
        parse_args([*task, *size]).work_dir
        for task in ([], ['--task', 'classification'])
        for size in ([], ['--smoke'])
    }
    assert len(folders) == 4
