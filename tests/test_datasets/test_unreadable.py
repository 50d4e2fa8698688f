from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from mmkd.datasets import unreadable
from mmkd.datasets.unreadable import skip_unreadable

LOAD = dict(type='LoadImageFromFile')


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three names: an image, a file that is none, and nothing."""
    cv2.imwrite(str(tmp_path / 'good.png'), np.full((4, 4, 3), 7, np.uint8))
    (tmp_path / 'broken.png').write_bytes(b'no image')
    return tmp_path


class Listed(BaseDataset):
    def load_data_list(self) -> list[dict[str, Any]]:
        names = ['good.png', 'broken.png', 'gone.png']
        return [dict(img_path=str(Path(self.data_root) / name)) for name in names]


def dataset(cfg: Config) -> BaseDataset:
    init_default_scope('mmdet')
    return DATASETS.build(cfg.train_dataloader.dataset)


@pytest.fixture
def cfg(images: Path) -> Config:
    listed = dict(type=Listed, data_root=str(images), pipeline=[LOAD], max_refetch=100)
    return Config(dict(train_dataloader=dict(dataset=listed)))


def test_an_unreadable_image_is_an_error_that_names_it(cfg: Config) -> None:
    data = dataset(cfg)
    with pytest.raises(AssertionError, match=r'broken\.png'):
        data[1]
    with pytest.raises(FileNotFoundError, match=r'gone\.png'):
        data[2]


def test_it_is_replaced_named_and_counted_on_request(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(unreadable, 'print_log', lambda text, *_: warnings.append(text))
    assert skip_unreadable(cfg) == 1
    data = dataset(cfg)
    np.random.seed(0)

    loaded = [data[index]['img'] for index in (0, 1, 2, 1)]

    assert all((image == 7).all() for image in loaded)
    first, second = sorted(warnings)
    assert 'broken.png cannot be read (AssertionError' in first
    assert 'gone.png cannot be read (FileNotFoundError' in second
    assert 'replaced so far' in first
    assert int(data.pipeline.transforms[0]._replaced) >= 3


def test_datasets_in_wrappers_are_reached() -> None:
    inner = [dict(pipeline=[LOAD]), dict(dataset=dict(pipeline=[LOAD, dict(type='Resize')]))]
    cfg = Config(dict(train_dataloader=dict(dataset=dict(datasets=inner))))
    assert skip_unreadable(cfg) == 2
    wrapped = cfg.train_dataloader.dataset.datasets[1].dataset.pipeline
    assert [step.type for step in wrapped] == ['mmkd.SkipUnreadable', 'Resize']
    assert wrapped[0].loader == LOAD
