from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd.datasets import make_shapes
from mmkd.experiments import CLASSIFICATION, DETECTION, resolve_config, task_of


def test_a_config_tells_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert task_of(resolve_config('configs/shapes/retinanet_ckd.py')) is DETECTION
    assert task_of(resolve_config('configs/shapes_cls/digits_ckd.py')) is CLASSIFICATION
    assert task_of(Config({})) is DETECTION


def test_what_a_result_depends_on(tiny_coco: Path, tmp_path: Path) -> None:
    out = make_shapes(tmp_path / 'cls', train=1, val=1, workers=1, task='classification')
    assert CLASSIFICATION.inputs(out, 'val') == (out / 'meta/val.json', out / 'meta/val.txt')
    name = 'annotations/instances_train2017.json'
    assert DETECTION.inputs(tiny_coco, 'train') == (tiny_coco / name,)
    with pytest.raises(FileNotFoundError, match=r'meta/train\.txt or meta/train\.json'):
        CLASSIFICATION.inputs(tiny_coco, 'train')
