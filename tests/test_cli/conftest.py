"""A plain model trained once, that the tests of the commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from training_runs import begin, finish

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
    """The tiny RetinaNet after one epoch, trained from a strange folder."""
    config = REPOSITORY / 'tests' / 'data' / 'tiny_retinanet.py'
    folder = tmp_path_factory.mktemp('elsewhere')
    log = folder / 'output.txt'
    argv = [str(config), '--cfg-options', f'data_root={tiny_coco}']
    code = finish(begin('train', argv, log, folder=folder))
    assert code == 0, log.read_text()
    work_dir = folder / 'work_dirs' / 'data' / 'tiny_retinanet'
    return TrainedModel(config, work_dir, work_dir / 'epoch_1.pth', log.read_text())
