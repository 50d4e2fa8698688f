"""The embedded pairs: the shipped weights are those of their configs and score what their meta says, roughly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint

from mmkd.datasets import make_shapes
from mmkd.utils import override_data_root

CONFIGS = Path(__file__).parents[2] / 'configs'
WEIGHTS = sorted(CONFIGS.glob('shapes*/weights/*.pth'))
MEGABYTE = 2**20


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder for a config's data set, with the first images of the test split."""
    folder = tmp_path_factory.mktemp('data')

    def of(cfg):
        name = Path(cfg.data_root).name
        task = 'classification' if name.endswith('_cls') else 'detection'
        images = 120 if task == 'classification' else 24
        return make_shapes(
            folder / name,
            train=1,
            val=1,
            test=images,
            categories=name.removesuffix('_cls'),
            task=task,
            workers=1,
        )

    return of


def config_of(weights):
    return Config.fromfile(weights.parent.parent / f'{weights.stem.rsplit("-", 1)[0]}.py')


def test_weights_are_small():
    sizes = [path.stat().st_size for path in WEIGHTS]
    assert max(sizes) <= 8 * MEGABYTE
    assert sum(sizes) <= 24 * MEGABYTE


@pytest.mark.parametrize('weights', WEIGHTS, ids=lambda path: path.stem)
def test_a_shipped_network_scores_what_its_file_says(weights, data, tmp_path):
    content = torch.load(weights, weights_only=True)
    cfg = config_of(weights)
    assert all(
        value.dtype in (torch.float16, torch.int64) for value in content['state_dict'].values()
    )
    override_data_root(cfg, f'{data(cfg)}/')
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.work_dir = str(tmp_path)
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        runner = Runner.from_cfg(cfg)
        load_checkpoint(runner.model, str(weights), strict=True)
        assert content['meta']['dataset_meta']['classes'] == tuple(
            runner.test_dataloader.dataset.metainfo['classes']
        )
        measured = runner.test()
    name = 'coco/bbox_mAP' if 'coco/bbox_mAP' in measured else 'accuracy/top1'
    # A few images say little: that it is the trained network is what can be seen.
    assert measured[name] > 0.6 * content['meta']['metrics'][name]


@pytest.mark.parametrize('recipe', sorted(CONFIGS.glob('shapes*/*_ckd.py')), ids=lambda p: p.stem)
def test_a_recipe_names_a_teacher_that_is_shipped(recipe):
    cfg = Config.fromfile(recipe)
    assert Path(cfg.model.teacher.checkpoint) in WEIGHTS
    assert Path(cfg.model.teacher.config).is_file()
