"""The example recipe has three classes, which are found among those of the COCO teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from tiny import fresh_hub

from mmkd.distillers import Distiller

EXAMPLE = Path(__file__).parents[2] / 'examples' / 'own_data.py'
CLASSES = ('cat', 'dog', 'horse')


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Annotations in which the categories are in another order than in the example."""
    root = tmp_path / 'mine'
    (root / 'annotations').mkdir(parents=True)
    categories = [dict(id=7 - number, name=name) for number, name in enumerate(CLASSES[::-1])]
    image = dict(id=1, file_name='a.jpg', width=64, height=64)
    box = dict(id=1, image_id=1, category_id=7, bbox=[1, 1, 20, 20], area=400, iscrowd=0)
    content = dict(images=[image], annotations=[box], categories=categories)
    for split in ('train', 'val'):
        (root / f'annotations/{split}.json').write_text(json.dumps(content))
    return root


def test_the_recipe_is_one_of_three_classes_with_the_coco_teacher(data_root: Path) -> None:
    cfg = Config.fromfile(EXAMPLE)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(data_root)
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        model = Distiller(
            cfg.model.student | dict(backbone=cfg.model.student.backbone | dict(init_cfg=None)),
            cfg.model.teacher | dict(checkpoint='random_init'),
            cfg.model.losses,
        )
    fresh_hub(dataset_meta=dataset.metainfo, cfg=cfg.pretty_text)
    model.match_classes()
    (horse,) = dataset.get_data_info(0)['instances']
    assert horse['bbox_label'] == 0
    assert dataset.metainfo['classes'] == CLASSES
    assert model._classes['teacher'].columns == (17, 16, 15), (
        "COCO's horse, dog and cat, as the file has them"
    )
