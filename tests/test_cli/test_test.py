from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmkd.cli import train
from mmkd.utils import load_config

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures('clean_environment')


@pytest.fixture
def tool() -> ModuleType:
    return import_module('mmkd.cli.test')


@pytest.fixture
def run_test(
    tool: ModuleType,
    trained: Any,
    tiny_coco: Path,
    tmp_path: Path,
    fresh_names: Callable[[], list[str]],
) -> Callable[..., dict[str, float]]:
    """Test the trained model, or another config or checkpoint; return the metrics."""

    def run(
        *arguments: str, config: Path = trained.config, checkpoint: Path = trained.checkpoint
    ) -> dict[str, float]:
        names = fresh_names()
        work_dir = tmp_path / names[0]
        exit_code = tool.main(
            [
                str(config),
                str(checkpoint),
                '--work-dir',
                str(work_dir),
                *arguments,
                '--cfg-options',
                f'data_root={tiny_coco}',
                *names,
            ]
        )
        assert exit_code == 0
        (metrics,) = work_dir.glob('*/*.json')
        return json.loads(metrics.read_text())

    return run


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith('coco/')}


@pytest.fixture
def metrics_of_training(trained: Any) -> dict[str, float]:
    """What the trained model's own run measured after its epoch."""
    (log,) = trained.work_dir.glob('*/vis_data/scalars.json')
    return without_times(json.loads(log.read_text().splitlines()[-1]))


def test_the_plain_config_measures_what_training_measured(
    run_test: Callable[..., dict[str, float]],
    metrics_of_training: dict[str, float],
    tmp_path: Path,
    tiny_coco: Path,
) -> None:
    predictions = tmp_path / 'predictions.pkl'

    assert without_times(run_test('--out', str(predictions))) == metrics_of_training

    annotations = json.loads((tiny_coco / 'annotations' / 'instances_val2017.json').read_text())
    images = {prediction['img_id'] for prediction in pickle.loads(predictions.read_bytes())}
    assert images == {image['id'] for image in annotations['images']}


def test_the_validation_images_can_be_asked_for(
    run_test: Callable[..., dict[str, float]],
    trained: Any,
    metrics_of_training: dict[str, float],
    tmp_path: Path,
) -> None:
    config = tmp_path / 'other_test_set.py'
    missing = "test_dataloader = dict(dataset=dict(ann_file='annotations/missing.json'))"
    config.write_text(f"_base_ = '{trained.config}'\n{missing}\n")
    metrics = run_test('--split', 'val', config=config)
    assert without_times(metrics) == metrics_of_training


def test_a_recipe_is_tested_without_its_teacher_and_extras(
    run_test: Callable[..., dict[str, float]],
    metrics_of_training: dict[str, float],
    trained: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = torch.load(trained.checkpoint, weights_only=False)
    checkpoint['state_dict']['distill.aekt.serial.weight'] = torch.eye(10)
    distilled = tmp_path / 'distilled.pth'
    torch.save(checkpoint, distilled)
    recipe = REPOSITORY / 'tests' / 'data' / 'tiny_ckd.py'

    metrics = run_test(config=recipe, checkpoint=distilled)

    assert without_times(metrics) == metrics_of_training
    output = capsys.readouterr()
    assert 'unexpected key' not in output.out + output.err


def test_a_layer_of_the_losses_is_folded_in_under_test_time_augmentation_too(
    run_test: Callable[..., dict[str, float]], trained: Any, tmp_path: Path
) -> None:
    checkpoint = torch.load(trained.checkpoint, weights_only=False)
    layer = dict(offset=torch.zeros(10, 10), bias=torch.zeros(10))
    checkpoint['state_dict'] |= {f'distill.aekt.task_layer.{k}': v for k, v in layer.items()}
    distilled = tmp_path / 'distilled.pth'
    torch.save(checkpoint, distilled)
    assert run_test('--tta', checkpoint=distilled)['coco/bbox_mAP'] >= 0


@pytest.mark.parametrize(
    ('option', 'said'),
    [
        ('model.backbone.base_channels=16', 'keys of other shapes'),
        ('model.bbox_head.stacked_convs=2', 'keys of the config that are missing in the file'),
        ('model.neck.num_outs=4', 'keys of the file that are unknown to the config'),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error(
    option: str,
    said: str,
    tool: ModuleType,
    trained: Any,
    tiny_coco: Path,
    fresh_names: Callable[[], list[str]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    options = ['--cfg-options', f'data_root={tiny_coco}', *fresh_names(), option]
    arguments = [str(trained.config), str(trained.checkpoint), '--work-dir', str(tmp_path)]
    assert tool.main([*arguments, *options]) == 2
    message = capsys.readouterr().err
    assert f'checkpoint: {trained.checkpoint} does not fit' in message
    assert said in message


def test_show_dir_paints_and_tta_flips(
    run_test: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    metrics = run_test('--show-dir', 'painted', '--tta')
    assert 'coco/bbox_mAP' in metrics
    assert len(list(tmp_path.glob('*/*/painted/*'))) == 4


def test_tta_wraps_the_model_and_replaces_the_last_step(
    tool: ModuleType, tiny_config: Config
) -> None:
    tiny_config.test_dataloader.dataset = dict(
        type='RepeatDataset', times=1, dataset=tiny_config.test_dataloader.dataset
    )

    tool.apply_tta(tiny_config)

    assert tiny_config.model.type == 'DetTTAModel'
    assert tiny_config.model.module.type == 'RetinaNet'
    *_, last = tiny_config.test_dataloader.dataset.dataset.pipeline
    flips, (pack,) = last.transforms
    assert [flip.prob for flip in flips] == [1.0, 0.0]
    assert 'flip' in pack.meta_keys


def test_show_needs_a_hook_that_draws(
    tool: ModuleType, trained: Any, tiny_coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ['--cfg-options', f'data_root={tiny_coco}', 'default_hooks.visualization=None']
    assert tool.main([str(trained.config), str(trained.checkpoint), '--show', *options]) == 2
    assert 'default_hooks.visualization' in capsys.readouterr().err


def test_a_missing_checkpoint_is_named(
    tool: ModuleType, trained: Any, tiny_coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ['--cfg-options', f'data_root={tiny_coco}']
    assert tool.main([str(trained.config), 'gone.pth', *options]) == 2
    assert 'checkpoint: gone.pth does not exist' in capsys.readouterr().err


def test_predictions_go_to_a_pickle_only(tool: ModuleType) -> None:
    with pytest.raises(SystemExit, match='2'):
        tool.parse_args(['config.py', 'model.pth', '--out', 'predictions.json'])


def test_a_damaged_checkpoint_is_one_message(
    tool: ModuleType,
    trained: Any,
    tiny_coco: Path,
    tmp_path: Path,
    fresh_names: Callable[[], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = tmp_path / 'short.pth'
    short.write_bytes(trained.checkpoint.read_bytes()[:1000])
    arguments = [str(trained.config), str(short), '--work-dir', str(tmp_path / 'run')]
    options = ['--cfg-options', f'data_root={tiny_coco}', *fresh_names()]
    assert tool.main([*arguments, *options]) == 2
    said = capsys.readouterr().err
    assert 'Not started: 1 problem.' in said
    assert f'{short} is truncated' in said


def test_a_test_by_the_options_of_a_training_has_its_folder(tool: ModuleType) -> None:
    config = str(REPOSITORY / 'tests' / 'data' / 'tiny_retinanet.py')
    method = ['--teacher', f'{config}=teacher.pth', '--losses', 'ckd+pkd']
    trained = load_config(train.parse_args([config, *method]))
    tested = load_config(tool.parse_args([config, 'epoch_1.pth', *method]))
    assert tested.work_dir == trained.work_dir
    assert tested.work_dir.endswith('tiny_retinanet_ckd_pkd')
