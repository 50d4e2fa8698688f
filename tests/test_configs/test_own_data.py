"""docs/own_data.md: its recipe has three classes of the COCO teacher, and its table of changes holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from tiny import fresh_hub

from mmkd.distillers import Distiller
from mmkd.losses.schedules import build_schedule
from mmkd.structures import Progress

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / 'docs/own_data.md').read_text()
CLASSES = ('cat', 'dog', 'horse')


def recipe(folder: Path, *changes: str) -> Config:
    """The page's recipe, and a child of it with these lines, as files where their bases are found."""
    (text,) = re.findall(r"```python\n(_base_ = '../ckd.*?)```", PAGE, re.DOTALL)
    parent = folder / 'pets.py'
    parent.write_text(text.replace("'../", f"'{REPOSITORY}/configs/"))
    child = folder / 'child.py'
    child.write_text('\n'.join(["_base_ = './pets.py'", *changes]))
    return Config.fromfile(child)


def change(what: str) -> str:
    """The config line that a row of the page's table gives."""
    (row,) = re.findall(rf'^\| {what} \| `(.*?)`', PAGE, re.MULTILINE)
    return row


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Annotations in which the categories are in another order than on the page."""
    root = tmp_path / 'mine'
    (root / 'annotations').mkdir(parents=True)
    categories = [dict(id=7 - number, name=name) for number, name in enumerate(CLASSES[::-1])]
    image = dict(id=1, file_name='a.jpg', width=64, height=64)
    box = dict(id=1, image_id=1, category_id=7, bbox=[1, 1, 20, 20], area=400, iscrowd=0)
    content = dict(images=[image], annotations=[box], categories=categories)
    for split in ('train', 'val'):
        (root / f'annotations/{split}.json').write_text(json.dumps(content))
    return root


def test_the_recipe_is_one_of_three_classes_with_the_coco_teacher(
    tmp_path: Path, data_root: Path
) -> None:
    cfg = recipe(tmp_path)
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


def test_the_table_of_changes_holds(tmp_path: Path) -> None:
    def losses(what: str) -> Config:
        return recipe(tmp_path, change(what)).model.losses

    assert losses('a number').ckd.weight == 0.5
    weight = build_schedule(losses('a number into a schedule').ckd.weight, 'weight')
    assert weight(Progress(epoch=1.0)) == 0.5
    assert losses('which samples').ckd.samples == dict(type='mmkd.Positives')
    assert set(losses('one more loss')) == {'ckd', 'pkd'}
    assert set(losses("other losses in place of the base's")) == {'qfl_kd'}
