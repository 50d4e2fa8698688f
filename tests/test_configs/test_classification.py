"""Every recipe for classifiers loads, builds and takes a step; every pair and every method trains an epoch on files."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import pickle
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CIFAR100
from mmpretrain.structures import DataSample
from mmpretrain.utils import register_all_modules
from published import NETWORKS, Network, images
from tiny import fresh_hub

from mmkd.distillers import Distiller
from mmkd.registry import MODELS
from mmkd.teachers import RANDOM_INIT

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / 'configs'
FOLDERS = ('cifar100', 'imagenet', 'places365')
METHODS = ('aekt', 'ckd', 'dist', 'dkd', 'dkd_lskd', 'kd', 'lskd', 'nkd')
RECIPES = {
    path.stem: path for folder in FOLDERS for path in sorted((CONFIGS / folder).glob('*.py'))
}
PAIRS = sorted(
    path.stem
    for folder in FOLDERS
    for path in (CONFIGS / '_base_' / 'pairs').glob(f'{folder}_*.py')
)

register_all_modules(init_default_scope=False)


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run in progress and no schedule chosen; recipes name files by paths from the root of the repository."""
    fresh_hub()
    monkeypatch.delenv('MMKD_SCHEDULE', raising=False)
    monkeypatch.chdir(REPOSITORY)


@functools.cache
def load(recipe: str) -> Config:
    """A recipe as its file says, on the default schedule; not to be changed."""
    return Config.fromfile(RECIPES[recipe])


def recipe_of(method: str, pair: str) -> str:
    """Name of a recipe's file, which names the data set only where it is Places365, whose pairs are ImageNet's."""
    return f'{method}_{pair.removeprefix("cifar100_").removeprefix("imagenet_")}'


def settings(config: Config) -> dict[str, Any]:
    """What a run reads of a config, without the losses."""
    keys = (
        'default_scope', 'custom_imports', 'data_preprocessor', 'train_dataloader', 'val_dataloader',
        'test_dataloader', 'val_evaluator', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'default_hooks',
    )  # fmt: skip
    return {key: config.to_dict()[key] for key in keys}


def plain_of(pair: str) -> Config:
    """The student of a pair alone."""
    content = (CONFIGS / '_base_' / 'pairs' / f'{pair}.py').read_text()
    (recipe,) = re.findall(r'_base_ = .*/(plain_\w+)\.py', content)
    return load(recipe)


def test_there_is_one_file_for_each_pair_and_method() -> None:
    distilled = {recipe_of(method, pair) for method in METHODS for pair in PAIRS}
    assert distilled == {name for name in RECIPES if not name.startswith('plain_')}
    assert len(RECIPES) == sum(len(list((CONFIGS / folder).glob('*.py'))) for folder in FOLDERS)


@pytest.mark.parametrize('pair', PAIRS)
def test_all_recipes_of_a_pair_load_build_and_take_a_step(pair: str) -> None:
    recipes = {method: load(recipe_of(method, pair)) for method in METHODS}
    plain = plain_of(pair)
    losses = {}
    for method, recipe in recipes.items():
        assert settings(recipe) == settings(plain), method
        student = recipe.to_dict()['model']['student']
        assert student == plain.to_dict()['model'], method
        (losses[method],) = recipe.to_dict()['model']['losses'].values()
        losses[method]['weight'] = 1.0  # the warm-up of some starts at 0
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = Distiller(
            student=plain.to_dict()['model'],
            teacher={**recipes['ckd'].model.teacher, 'checkpoint': RANDOM_INIT},
            losses=losses,
            data_preprocessor=plain.to_dict()['data_preprocessor'],
        ).train()
    classes, size = model.head.num_classes, 32 if pair.startswith('cifar100') else 64
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, size, size), generator=noise)
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, classes - 1)]
    batch = model.data_preprocessor(dict(inputs=pixels, data_samples=samples), training=True)
    values = model.loss(**batch)
    assert values.keys() == {'loss', *(f'loss_{method}' for method in METHODS)}
    assert all(0 < value.item() < math.inf for value in values.values()), values
    sum(values.values()).backward()
    gradients = [parameter.grad for parameter in model.backbone.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert not model.teacher.convert_pixels.affine


@pytest.mark.parametrize('name', sorted(name for name in RECIPES if name.startswith('plain_')))
def test_plain_networks_have_the_classes_of_their_data(name: str) -> None:
    """They are built as students and teachers of the pairs, and in tests/test_models."""
    config = load(name)
    assert config.model.head.num_classes == config.data_preprocessor.num_classes


@pytest.mark.parametrize('pair', PAIRS)
def test_kd_shares_the_loss_with_the_task_and_others_leave_the_task_alone(pair: str) -> None:
    models = {method: load(recipe_of(method, pair)).model for method in METHODS}
    kd = models.pop('kd')
    assert kd.task_weight + kd.losses.kd.weight == 1
    on_cifar = pair.startswith('cifar100')
    assert models.pop('lskd').get('task_weight', 1.0) == (kd.task_weight if on_cifar else 1.0)
    assert not any('task_weight' in model for model in models.values())


@pytest.mark.parametrize('pair', PAIRS)
def test_aekt_has_the_settings_of_dkd(pair: str) -> None:
    (dkd,) = load(recipe_of('dkd', pair)).model.losses.values()
    (aekt,) = load(recipe_of('aekt', pair)).model.losses.values()
    for name in ('weight', 'alpha', 'beta', 'temperature'):
        assert aekt[name] == dkd[name]


def test_the_tables_of_the_docs_say_what_the_recipes_do() -> None:
    lines = (REPOSITORY / 'docs' / 'classification.md').read_text().splitlines()
    rows = [[cell.strip(' `') for cell in line.strip('|').split('|')] for line in lines]
    found = {row[0]: row[1:] for row in rows}
    assert set(METHODS) <= found.keys()
    for pair in PAIRS:
        folder, _, networks = pair.partition('_')
        recipe = load(recipe_of('ckd', pair))
        ckd, dkd = recipe.model.losses.ckd, load(recipe_of('dkd', pair)).model.losses.dkd
        distillation = [f'{ckd.weight:g}, {ckd.temperature:g}', f'{dkd.beta:g}']
        if folder == 'cifar100':
            rate = recipe.optim_wrapper.optimizer.lr
            batch = f'{recipe.train_dataloader.batch_size}, {rate}'
            assert found[networks][2:] == [*distillation, batch]
        else:
            name = recipe_of('*', pair)
            assert found[f'{folder}/{name}'][1:] == distillation


COSINE, STEPS = 'CosineAnnealingLR', 'MultiStepLR'


@pytest.mark.parametrize(
    ('recipe', 'schedule', 'epochs', 'decay', 'where', 'batch_size', 'learning_rate'),
    [
        ('dkd_vgg13_mobilenet_v2', None, 480, COSINE, 480, 32, 0.01),
        ('dkd_vgg13_mobilenet_v2', '240e', 240, STEPS, [150, 180, 210], 64, 0.01),
        ('dist_resnet56_resnet20', '240e', 240, STEPS, [150, 180, 210], 64, 0.05),
        ('kd_r34_r18', None, 200, COSINE, 200, 64, 0.2),
        ('kd_r34_r18', '100e', 100, STEPS, [30, 60, 90], 64, 0.2),
        ('nkd_r50_mv1', '100e_b256', 100, STEPS, [30, 60, 90], 32, 0.1),
        ('ckd_places365_r34_r18', None, 100, STEPS, [30, 60, 90], 32, 0.2),
    ],
)
def test_schedules(
    recipe: str,
    schedule: str | None,
    epochs: int,
    decay: str,
    where: int | list[int],
    batch_size: int,
    learning_rate: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if schedule is not None:
        monkeypatch.setenv('MMKD_SCHEDULE', schedule)
    config = Config.fromfile(RECIPES[recipe])
    scheduler = config.param_scheduler
    assert (config.train_cfg.max_epochs, scheduler.type, scheduler.by_epoch) == (
        epochs,
        decay,
        True,
    )
    assert (scheduler.T_max if decay == COSINE else scheduler.milestones) == where
    assert scheduler.get('eta_min', 0.0) == 0.0
    assert config.train_dataloader.batch_size == batch_size
    assert config.optim_wrapper.optimizer.lr == learning_rate


def test_a_schedule_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMKD_SCHEDULE', '300e')
    with pytest.raises(FileNotFoundError, match=r'cifar100_300e\.py'):
        Config.fromfile(RECIPES['ckd_resnet56_resnet20'])


# ---- runs ----


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pickled batches as CIFAR-100's, of 16 training and 60 test images, whose checksums MMPretrain is told."""
    folder = tmp_path / 'cifar100' / 'cifar-100-python'
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    for split, count in (('train', 16), ('test', 60)):
        labels = noise.integers(0, 100, count).tolist()
        checksum = write(
            split,
            dict(
                filenames=[f'{split}_{number}.png' for number in range(count)],
                batch_label=f'{split}ing batch 1 of 1',
                fine_labels=labels,
                coarse_labels=[label // 5 for label in labels],
                data=noise.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8),
            ),
        )
        monkeypatch.setattr(CIFAR100, f'{split}_list', [[split, checksum]])
    names = dict(fine_label_names=list(CIFAR100.METAINFO['classes']))
    monkeypatch.setitem(CIFAR100.meta, 'md5', write('meta', names))
    return folder.parent


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Training images in folders of classes, validation images in one folder, and the lists of both in meta/."""
    folder = tmp_path / 'imagenet'
    noise = np.random.default_rng(0)
    (folder / 'meta').mkdir(parents=True)
    for split, names in (
        ('train', [f'{synset}/{synset}_{n}.JPEG' for synset in ('n01440764', 'n01443537') for n in range(4)]),
        ('val', [f'ILSVRC2012_val_{n:08d}.JPEG' for n in range(1, 5)]),
    ):  # fmt: skip
        lines = []
        for number, name in enumerate(names):
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), noise.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            lines.append(f'{name} {number * 2 // len(names)}\n')
        (folder / 'meta' / f'{split}.txt').write_text(''.join(lines))
    return folder


@pytest.fixture
def places365(tmp_path: Path) -> Path:
    """Two classes of Places365-Standard in its easy directory structure."""
    folder = tmp_path / 'places365_standard'
    noise = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for scene in ('airfield', 'airplane_cabin'):
            (folder / split / scene).mkdir(parents=True)
            for number in range(count):
                path = folder / split / scene / f'{number:08d}.jpg'
                cv2.imwrite(str(path), noise.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def train(
    fresh_names: Callable[[], list[str]],
    tmp_path: Path,
) -> Callable[..., list[dict[str, float]]]:
    """Runs a recipe for one epoch by tools/train.py; returns its log."""

    def run(recipe: str, data: Path, *options: str) -> list[dict[str, float]]:
        work_dir = tmp_path / 'run'
        arguments = [str(RECIPES[recipe]), '--work-dir', str(work_dir), '--cfg-options']
        arguments += [f'data_root={data}', 'train_cfg.max_epochs=1', *fresh_names()]
        arguments += ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']
        arguments += ['default_hooks.logger.interval=1', 'default_hooks.checkpoint.interval=1']
        assert import_module('mmkd.cli.train').main([*arguments, *options]) == 0
        (log,) = work_dir.glob('*/vis_data/scalars.json')
        return [json.loads(line) for line in log.read_text().splitlines()]

    return run


def assert_distilled(log: list[dict[str, float]], method: str) -> None:
    *steps, validation = log
    assert len(steps) == 1
    warms_up = method in ('dkd', 'dkd_lskd', 'aekt')
    distillation = steps[0].get(f'loss_{method}', 0)
    assert distillation == 0 if warms_up else 0 < distillation < math.inf
    assert math.isfinite(steps[0]['loss'])
    assert 0 <= validation['accuracy/top1'] <= validation['accuracy/top5'] <= 100


RUNS = [
    (pair, METHODS[number % len(METHODS)]) for number, pair in enumerate(PAIRS) if 'cifar' in pair
]
"""Every CIFAR-100 pair, and every method."""


@pytest.mark.usefixtures('clean_environment')
@pytest.mark.parametrize(('pair', 'method'), RUNS)
def test_a_recipe_trains_on_cifar100s_batches(
    pair: str, method: str, cifar100: Path, train: Callable[..., list[dict[str, float]]]
) -> None:
    log = train(recipe_of(method, pair), cifar100, f'model.teacher.checkpoint={RANDOM_INIT}')
    assert_distilled(log, method)


# Training crops of 64 px, and validation at that size too.
SMALL = [
    'train_dataloader.dataset.pipeline.1.scale=64',
    'val_dataloader.dataset.pipeline.1.scale=72',
    'val_dataloader.dataset.pipeline.2.crop_size=64',
]


@pytest.mark.usefixtures('clean_environment')
@pytest.mark.parametrize(('pair', 'method'), [('r34_r18', 'ckd'), ('r50_mv1', 'kd')])
def test_a_recipe_trains_on_imagenets_folders_and_lists(
    pair: str, method: str, imagenet: Path, train: Callable[..., list[dict[str, float]]]
) -> None:
    teacher = f'model.teacher.checkpoint={RANDOM_INIT}'
    assert_distilled(train(f'{method}_{pair}', imagenet, teacher, *SMALL), method)


@pytest.mark.usefixtures('clean_environment')
def test_a_recipe_trains_on_places365s_folders(
    places365: Path, train: Callable[..., list[dict[str, float]]]
) -> None:
    teacher = f'model.teacher.checkpoint={RANDOM_INIT}'
    assert_distilled(train('nkd_places365_r34_r18', places365, teacher, *SMALL), 'nkd')


@pytest.mark.usefixtures('clean_environment')
def test_from_a_published_teacher_to_the_plain_students_top_1_and_top_5(
    cifar100: Path,
    train: Callable[..., list[dict[str, float]]],
    fresh_names: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    network = Network(NETWORKS['resnet56'])
    network(images('resnet56', batch=1))
    torch.save(dict(epoch=240, model=network.weights), tmp_path / 'ckpt_epoch_240.pth')
    teacher = tmp_path / 'cifar100_resnet56.pth'
    convert = import_module('mmkd.cli.convert_teacher').main
    assert convert([str(tmp_path / 'ckpt_epoch_240.pth'), str(teacher)]) == 0

    options = [f'model.teacher.checkpoint={teacher}', 'randomness.seed=0']
    log = train('ckd_resnet56_resnet20', cifar100, *options)

    assert_distilled(log, 'ckd')
    tested = tmp_path / 'test'
    arguments = [str(RECIPES['plain_resnet20']), str(tmp_path / 'run' / 'epoch_1.pth')]
    arguments += ['--work-dir', str(tested), '--cfg-options', f'data_root={cifar100}']
    assert (
        import_module('mmkd.cli.test').main(
            [*arguments, 'test_dataloader.num_workers=0', *fresh_names()]
        )
        == 0
    )
    (metrics,) = tested.glob('*/*.json')
    result = json.loads(metrics.read_text())
    plain = load('plain_resnet20')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        student = MODELS.build(plain.model).eval()
    weights = torch.load(tmp_path / 'run' / 'epoch_1.pth', weights_only=False)['state_dict']
    student.load_state_dict(weights)
    batch = pickle.loads((cifar100 / 'cifar-100-python' / 'test').read_bytes())
    mean, std = (torch.tensor(plain.data_preprocessor[name]) for name in ('mean', 'std'))
    pixels = torch.from_numpy(batch['data']).view(-1, 3, 32, 32)
    with torch.no_grad():
        logits = student((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1), mode='tensor')
    hits = logits.topk(5).indices == torch.tensor(batch['fine_labels'])[:, None]
    for name, count in (('top1', hits[:, 0].sum()), ('top5', hits.sum())):
        assert result[f'accuracy/{name}'] == log[-1][f'accuracy/{name}']
        assert result[f'accuracy/{name}'] == pytest.approx(100 * float(count) / len(hits))
    assert hits.any()
