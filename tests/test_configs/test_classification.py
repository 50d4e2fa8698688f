"""Every pair of classifiers takes a step by every method; some train an epoch on files in the real layout."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import pickle
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
from mmkd.utils.recipe import make_recipe

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
FOLDERS = ('cifar100', 'imagenet', 'places365')
PLAIN = sorted(path for folder in FOLDERS for path in (CONFIGS / folder).glob('plain_*.py'))
PAIRS = sorted(
    path.stem
    for folder in FOLDERS
    for path in (CONFIGS / '_base_' / 'pairs').glob(f'{folder}_*.py')
)
METHODS = ('aekt', 'ckd', 'dist', 'dkd', 'dkd_lskd', 'kd', 'lskd', 'nkd')
"""Those with settings of their own for these data."""

register_all_modules(init_default_scope=False)


@pytest.fixture(autouse=True)
def _no_run_in_progress() -> None:
    fresh_hub()


@functools.cache
def load(path: Path) -> Config:
    """A config as its file says; not to be changed."""
    return Config.fromfile(path)


@functools.cache
def recipe(pair: str, method: str) -> Config:
    """A pair with the losses of a method; not to be changed."""
    config = Config.fromfile(pair_file(pair))
    make_recipe(config, None, method)
    return config


def pair_file(pair: str) -> Path:
    return CONFIGS / '_base_' / 'pairs' / f'{pair}.py'


@pytest.mark.parametrize('pair', PAIRS)
def test_all_methods_of_a_pair_build_and_take_a_step(pair: str) -> None:
    config = recipe(pair, METHODS[0])
    losses = {method: dict(loss_of(pair, method), weight=1.0) for method in METHODS}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = Distiller(
            student=config.model.student,
            teacher={**config.model.teacher, 'checkpoint': RANDOM_INIT},
            losses=losses,
            data_preprocessor=config.data_preprocessor,
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


def loss_of(pair: str, method: str) -> dict[str, Any]:
    """A method's only loss."""
    (loss,) = recipe(pair, method).to_dict()['model']['losses'].values()
    return loss


@pytest.mark.parametrize('path', PLAIN, ids=lambda path: path.stem)
def test_plain_networks_have_the_classes_of_their_data(path: Path) -> None:
    """They are built as students and teachers of the pairs, and in tests/test_models."""
    config = load(path)
    assert config.model.head.num_classes == config.data_preprocessor.num_classes


@pytest.mark.parametrize('pair', PAIRS)
def test_kd_shares_the_loss_with_the_task(pair: str) -> None:
    kd = recipe(pair, 'kd').model
    assert kd.task_weight + kd.losses.kd.weight == 1


@pytest.mark.parametrize('pair', PAIRS)
def test_aekt_has_the_settings_of_dkd(pair: str) -> None:
    dkd, aekt = loss_of(pair, 'dkd'), loss_of(pair, 'aekt')
    for name in ('weight', 'alpha', 'beta', 'temperature'):
        assert aekt[name] == dkd[name]


@pytest.mark.parametrize('path', sorted((CONFIGS / '_base_' / 'schedules').glob('[ci]*_*e*.py')))
def test_a_schedule_of_another_length_leaves_the_learning_rates_of_networks(path: Path) -> None:
    folder = path.stem.partition('_')[0]
    for plain in (each for each in PLAIN if each.parent.name == folder):
        changed = Config.fromfile(plain)
        changed.merge_from_dict(Config.fromfile(path).to_dict())
        assert changed.train_cfg.max_epochs < load(plain).train_cfg.max_epochs
        assert 'T_max' not in changed.param_scheduler
        if 'optim_wrapper' not in Config.fromfile(path):
            assert changed.optim_wrapper == load(plain).optim_wrapper


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
    """Trains a pair by a method for one epoch, as `mmkd train` does; returns its log."""

    def run(pair: str, method: str, data: Path, *options: str) -> list[dict[str, float]]:
        work_dir = tmp_path / 'run'
        arguments = [f'mmkd::_base_/pairs/{pair}.py', '--losses', method]
        arguments += ['--work-dir', str(work_dir), '--cfg-options']
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


@pytest.mark.usefixtures('clean_environment')
@pytest.mark.parametrize(
    ('pair', 'method'),
    [
        ('cifar100_resnet32x4_shufflenet_v2', 'dkd_lskd'),
        ('cifar100_vgg13_mobilenet_v2', 'kd'),
        ('cifar100_wrn_40_2_wrn_16_2', 'aekt'),
    ],
)
def test_a_pair_trains_on_cifar100s_batches(
    pair: str, method: str, cifar100: Path, train: Callable[..., list[dict[str, float]]]
) -> None:
    log = train(pair, method, cifar100, f'model.teacher.checkpoint={RANDOM_INIT}')
    assert_distilled(log, method)


# Training crops of 64 px, and validation at that size too.
SMALL = [
    'train_dataloader.dataset.pipeline.1.scale=64',
    'val_dataloader.dataset.pipeline.1.scale=72',
    'val_dataloader.dataset.pipeline.2.crop_size=64',
]


@pytest.mark.usefixtures('clean_environment')
def test_a_pair_trains_on_imagenets_folders_and_lists(
    imagenet: Path, train: Callable[..., list[dict[str, float]]]
) -> None:
    teacher = f'model.teacher.checkpoint={RANDOM_INIT}'
    assert_distilled(train('imagenet_r34_r18', 'ckd', imagenet, teacher, *SMALL), 'ckd')


@pytest.mark.usefixtures('clean_environment')
def test_a_pair_trains_on_places365s_folders(
    places365: Path, train: Callable[..., list[dict[str, float]]]
) -> None:
    teacher = f'model.teacher.checkpoint={RANDOM_INIT}'
    assert_distilled(train('places365_r34_r18', 'nkd', places365, teacher, *SMALL), 'nkd')


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
    log = train('cifar100_resnet56_resnet20', 'ckd', cifar100, *options)

    assert_distilled(log, 'ckd')
    tested = tmp_path / 'test'
    arguments = ['mmkd::cifar100/plain_resnet20.py', str(tmp_path / 'run' / 'epoch_1.pth')]
    arguments += ['--work-dir', str(tested), '--cfg-options', f'data_root={cifar100}']
    assert (
        import_module('mmkd.cli.test').main(
            [*arguments, 'test_dataloader.num_workers=0', *fresh_names()]
        )
        == 0
    )
    (metrics,) = tested.glob('*/*.json')
    result = json.loads(metrics.read_text())
    plain = load(CONFIGS / 'cifar100/plain_resnet20.py')
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
