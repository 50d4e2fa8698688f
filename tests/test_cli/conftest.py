"""A plain model trained once, that the tests of the commands share."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class TrainedModel:
    """What a run of `mmkd train` left behind."""

    config: Path
    work_dir: Path
    checkpoint: Path
    log: str


@pytest.fixture(scope='session')
def trained(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """The tiny RetinaNet after one epoch, trained from a strange folder by the command itself."""
    config = REPOSITORY / 'tests' / 'data' / 'tiny_retinanet.py'
    folder = tmp_path_factory.mktemp('elsewhere')
    run = subprocess.run(
        [
            sys.executable,
            '-m',
            'mmkd',
            'train',
            str(config),
            '--cfg-options',
            f'data_root={tiny_coco}',
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    work_dir = folder / 'work_dirs' / 'data' / 'tiny_retinanet'
    return TrainedModel(config, work_dir, work_dir / 'epoch_1.pth', run.stdout + run.stderr)
