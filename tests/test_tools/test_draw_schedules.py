"""The drawn weights are those that training used, and the learning rate is the one that it logged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import pytest
from mmengine.config import Config
from tiny import CKD, TINY_RETINANET, recipe, train

from mmkd.structures import Progress
from mmkd.utils import override_data_root

REPOSITORY = Path(__file__).resolve().parents[2]
RAMP = dict(type='Chain', schedules=[dict(type='LinearWarmup', end=1), dict(type='Stop', at=2)])


@pytest.fixture
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool('draw_schedules')


@pytest.fixture
def config(tiny_coco: Path, tmp_path: Path) -> Path:
    """A recipe with two schedules, three epochs of four iterations."""
    plain = Config.fromfile(TINY_RETINANET)
    override_data_root(plain, str(tiny_coco))
    plain.merge_from_dict(
        {
            'train_cfg.max_epochs': 3,
            'param_scheduler': [
                dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=3),
                dict(type='CosineAnnealingLR', T_max=3, by_epoch=True, convert_to_iter_based=True),
            ],
        }
    )
    losses = dict(
        ckd=CKD | dict(weight=RAMP), pkd=dict(type='mmkd.PKDLoss', weight=dict(type='Stop', at=2))
    )
    path = tmp_path / 'recipe.py'
    recipe(plain, losses).dump(path)
    return path


def test_the_picture_is_written(tool: ModuleType, config: Path, tmp_path: Path) -> None:
    out = tmp_path / 'new' / 'folder' / 'drawn.png'
    assert tool.main([str(config), '--out', str(out)]) == 0
    assert cv2.imread(str(out)).shape[:2] == (550, 880)


@pytest.mark.parametrize('out', ['file/drawn.png', 'drawn.doc', 'folder'])
def test_a_picture_that_cannot_be_written_is_named(
    tool: ModuleType, config: Path, tmp_path: Path, capsys: Any, out: str
) -> None:
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    assert tool.main([str(config), '--out', str(tmp_path / out)]) == 2
    assert out.partition('/')[0].removeprefix('drawn.') in capsys.readouterr().err


def test_a_recipe_over_a_config_of_mmdetection_is_drawn(tool: ModuleType) -> None:
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'ckd' / 'retinanet_r50_r18.py')
    rates = tool.learning_rates(cfg, tool.run_points(cfg, 50))
    # Warmed up from a thousandth of 0.01, and divided by 10 after epochs 8 and 11 of 12.
    assert (rates[0], rates[-1]) == pytest.approx((1e-5, 1e-4))


def test_weights_over_the_whole_run(tool: ModuleType, config: Path) -> None:
    cfg = Config.fromfile(config)
    points = tool.run_points(cfg, None)
    assert points[5] == Progress(5, 1.25, 12, 3)
    top, _ = tool.draw(tool.build_losses(cfg), [0.1] * 12, points).axes
    ckd, pkd, freed = top.lines
    assert list(ckd.get_ydata()) == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0, 0, 0, 0]
    assert list(pkd.get_ydata()) == [1] * 8 + [0] * 4
    assert list(freed.get_xdata()) == [2, 2]


def test_the_learning_rate_is_the_one_that_training_logs(
    tool: ModuleType, config: Path, tmp_path: Path
) -> None:
    cfg = Config.fromfile(config)
    rates = tool.learning_rates(cfg, tool.run_points(cfg, None))
    cfg.merge_from_dict({'train_cfg.val_interval': 9})
    train(cfg, tmp_path / 'run')
    (path,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    logged = [line['lr'] for line in lines if 'lr' in line]
    assert rates == pytest.approx(logged, rel=1e-6)
    assert len(set(rates)) > 8


def test_a_single_scheduler_need_not_be_in_a_list(tool: ModuleType, config: Path) -> None:
    cfg = Config.fromfile(config)
    cfg.param_scheduler = dict(type='StepLR', step_size=1, gamma=0.5, by_epoch=True)
    rates = tool.learning_rates(cfg, tool.run_points(cfg, None))
    assert rates == pytest.approx([0.01] * 4 + [0.005] * 4 + [0.0025] * 4)


@pytest.mark.parametrize('label', ['epoch', 'iteration'])
def test_the_axes_say_what_is_drawn(tool: ModuleType, config: Path, label: str) -> None:
    cfg = Config.fromfile(config)
    if label == 'iteration':
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=50)
    points = tool.run_points(cfg, None)
    figure = tool.draw(tool.build_losses(cfg), tool.learning_rates(cfg, points), points)
    top, bottom = figure.axes
    assert bottom.get_xlabel() == label
    names = [text.get_text() for text in top.get_legend().get_texts()]
    assert names == ['ckd', 'pkd'] + ['the teacher is freed'] * (label == 'epoch')


def test_data_that_is_not_there_asks_for_the_number_of_iterations(
    tool: ModuleType, config: Path, tmp_path: Path, capsys: Any
) -> None:
    missing = ['--cfg-options', 'train_dataloader.dataset.ann_file=/nowhere/at/all.json']
    out = tmp_path / 'drawn.png'
    assert tool.main([str(config), '--out', str(out), *missing]) == 2
    assert '--iterations-per-epoch' in capsys.readouterr().err
    assert not out.exists()
    assert tool.main([str(config), '--out', str(out), '--iterations-per-epoch', '5', *missing]) == 0
    assert out.exists()


def test_a_loss_that_cannot_be_built_is_named(tool: ModuleType, config: Path, capsys: Any) -> None:
    wrong = ['--cfg-options', "model.losses.ckd.weight=dict(_delete_=True, type='Stopp', at=1)"]
    assert tool.main([str(config), *wrong]) == 2
    assert "weight: no schedule is registered as 'Stopp'" in capsys.readouterr().err


def test_a_plain_config_has_nothing_to_draw(tool: ModuleType, tmp_path: Path, capsys: Any) -> None:
    assert tool.main([str(TINY_RETINANET), '--out', str(tmp_path / 'drawn.png')]) == 2
    assert 'only a recipe with a teacher has weights' in capsys.readouterr().err
