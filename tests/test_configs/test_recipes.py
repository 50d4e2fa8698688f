"""Every pair of detectors builds, and one of each head family takes a training step on 80 classes."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from tiny import fresh_hub
from torch import nn
from torch.overrides import TorchFunctionMode

from mmkd.datasets import make_shapes
from mmkd.distillers import Distiller
from mmkd.registry import MODELS
from mmkd.teachers import RANDOM_INIT
from mmkd.utils import is_distiller, override_data_root, student_config
from mmkd.utils.recipe import make_recipe

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
RECIPES = sorted(
    path
    for folder in ('ckd', 'ckd_paper', 'shapes', 'shapes_cls')
    for path in (CONFIGS / folder).rglob('*.py')
)
PAPER = sorted((CONFIGS / 'ckd_paper').glob('*/ckd_review_kd.py'))
COCO_PAIRS = [
    *(
        path
        for path in sorted((CONFIGS / '_base_' / 'pairs').glob('*.py'))
        if 'mmdet::' in path.read_text()
    ),
    *PAPER,
]
IMAGE_SIZE = 128

STEPS = {
    'anchor': ('pairs/retinanet_r50_r18', 'ckd+aekt+pkd+box_giou'),
    'point': ('pairs/fcos_r101_r50', 'ckd+aekt'),
    'RoI': ('pairs/faster_rcnn_r101_r50', 'ckd+aekt+dkd'),
    'RoI-masks-features': ('../ckd_paper/mask_rcnn_r50_mobilenet_v2/ckd_review_kd', None),
    'query': ('pairs/dino_swinl_r50', 'ckd+aekt+box_l1'),
}


def short(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix('').as_posix()


@functools.cache
def load(path: Path) -> Config:
    """A config as its file says; not to be changed."""
    return Config.fromfile(path)


def recipe(pair: Path, losses: str | None) -> Config:
    """A pair with losses, as `mmkd train PAIR --losses LOSSES` has it; or a recipe as it is."""
    config = Config.fromfile(pair)
    if losses is not None:
        make_recipe(config, None, losses)
    return config


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    """Recipes of the embedded data name checkpoints by paths from the root of the repository."""
    monkeypatch.chdir(CONFIGS.parent)


@pytest.fixture(scope='module')
def coco80(tmp_path_factory) -> Path:
    """Four training images with COCO's 80 classes, in COCO's layout."""
    folder = tmp_path_factory.mktemp('data') / 'coco80'
    return make_shapes(folder, train=4, val=1, size=IMAGE_SIZE, categories='coco80', workers=1)


def test_no_config_repeats_another_and_there_are_few():
    files = sorted(CONFIGS.rglob('*.py'))
    texts = [code(path) for path in files]
    assert len(files) <= 120
    assert len(set(texts)) == len(texts)


def code(path: Path) -> str:
    """A config without its comments, and with its bases' full paths."""
    lines = [line.split('#')[0].rstrip() for line in path.read_text().splitlines()]
    return '\n'.join(filter(None, lines)).replace("'../", f"'{path.parent}/../")


@pytest.mark.parametrize('path', RECIPES, ids=short)
def test_recipes_load(path):
    config = load(path)
    assert config.model
    assert not is_distiller(config.model) or config.model.losses


@pytest.mark.parametrize('path', COCO_PAIRS, ids=short)
def test_pairs_build_with_the_methods_of_this_package(path):
    model = build(recipe(path, None if path in PAPER else 'ckd+aekt'))
    assert isinstance(model, Distiller)
    assert {'ckd'} < set(model.distill_losses)


@pytest.mark.parametrize('path', COCO_PAIRS, ids=short)
def test_a_plain_config_trains_as_the_pairs_student_does(path):
    """That of MMDetection, or plain.py beside the CKD paper's recipes."""
    (named,) = re.findall(r"_base_ = \['([^']+)'", path.read_text())
    plain = get_config(named) if '::' in named else load(path.parent / named)
    student, expected = settings(student_config(load(path))), settings(plain)
    for each in (student, expected):  # the student of a package's config says whose it is
        each['model'].pop('_scope_', None)
    assert student['model'] == expected['model']
    assert student.keys() == expected.keys()


@pytest.mark.parametrize('path', COCO_PAIRS, ids=short)
def test_a_teachers_checkpoint_is_the_one_published_for_its_config(path):
    teacher = load(path).model.teacher
    assert teacher.checkpoint == get_config(teacher.config, pretrained=True).model_path


@pytest.mark.parametrize('path', PAPER, ids=short)
def test_a_recipe_of_the_ckd_paper_is_its_plain_student_with_both_losses(path):
    written, made = load(path), Config.fromfile(path.parent / 'plain.py')
    make_recipe(made, written.model.teacher.config, 'ckd+review_kd')
    assert made.model.to_dict() == written.model.to_dict()
    assert written.model.losses.ckd.gather is False
    assert 2 * written.train_dataloader.batch_size == written.auto_scale_lr.base_batch_size


def test_norms_have_no_weight_decay_in_the_ckd_papers_recipes_as_in_detectron2():
    config = load(CONFIGS / 'ckd_paper/faster_rcnn_r50_mobilenet_v2/ckd_review_kd.py')
    model = build(config)

    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups

    decays = {parameter: group['weight_decay'] for group in groups for parameter in group['params']}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    without = {
        parameter for norm in norms for parameter in norm.parameters() if parameter.requires_grad
    }
    fusions = model.distill_losses['review_kd'].fusions
    assert set(fusions[0].expand[1].parameters()) <= without
    assert {parameter for parameter, decay in decays.items() if not decay} == without
    assert decays.keys() == {p for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(('pair', 'losses'), STEPS.values(), ids=list(STEPS))
def test_a_recipe_takes_a_training_step(pair, losses, coco80):
    config = small(recipe(CONFIGS / '_base_' / f'{pair}.py', losses), coco80)
    fresh_hub()  # of a run before, the model would take the data set's classes
    torch.manual_seed(0)
    model = build(config, initialise=True).train()
    with DefaultScope.overwrite_default_scope('mmdet'):
        loader = Runner.build_dataloader(config.train_dataloader, seed=0)
        data = model.data_preprocessor(next(iter(loader)), training=True)
        losses = model(**data, mode='loss')
    distillation = {name: losses[f'loss_{name}'] for name in config.model.losses}
    sum(distillation.values()).backward()

    assert len(loader.dataset.metainfo['classes']) == 80
    assert all(0 < value.item() < math.inf for value in distillation.values()), distillation
    assert model.parse_losses(losses)[0].isfinite()
    gradients = [
        parameter.grad for parameter in model.backbone.parameters() if parameter.grad is not None
    ]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


def settings(config: Config) -> dict[str, Any]:
    """What a run reads of a config: not the imports, nor the presets."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if key not in ('custom_imports', 'presets')
    }


def build(config: Config, initialise: bool = False) -> Any:
    """The model of a recipe as a Runner builds it, with a random teacher and without any download.

    Weights are unset memory unless they are to be initialised, which takes most of the time.
    """
    config = copy.deepcopy(config)
    if is_distiller(config.model):
        config.model.teacher.checkpoint = RANDOM_INIT
    if 'data_preprocessor' in config:
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    with (
        DefaultScope.overwrite_default_scope(config.default_scope),
        contextlib.nullcontext() if initialise else NoRandomFill(),
    ):
        model = MODELS.build(config.model)
        if initialise:
            for module in model.modules():
                if 'Pretrained' in str(getattr(module, 'init_cfg', None)):
                    module.init_cfg = None
            model.init_weights()
    return model


class NoRandomFill(TorchFunctionMode):
    """Leaves new weights as the memory is."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, '__module__', None) == 'torch.nn.init':
            return args[0] if args else kwargs['tensor']
        if function in (torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_):
            return args[0]
        return function(*args, **kwargs)


def small(recipe: Config, data: Path) -> Config:
    """A recipe on small images of another folder.

    DINO gets a narrow Swin in the place of Swin-L, and no more queries than its encoder has positions.
    """
    config = copy.deepcopy(recipe)
    override_data_root(config, str(data))
    config.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    _resize(config.train_dataloader.dataset.pipeline)
    if 'swin' in config.model.teacher.config:
        teacher = get_config(config.model.teacher.config)
        teacher.model.backbone.update(embed_dims=48, depths=[1, 1, 1, 1])
        teacher.model.neck.in_channels = [48, 96, 192, 384]
        config.model.student.num_queries = teacher.model.num_queries = 100
        config.model.teacher.config = dict(model=teacher.model, default_scope='mmdet')
    return config


def _resize(transforms: Any) -> None:
    """Set every target size of a pipeline, in place, nested pipelines included."""
    if isinstance(transforms, dict):
        if 'scales' in transforms:
            transforms['scales'] = [(IMAGE_SIZE, IMAGE_SIZE)]
        if 'scale' in transforms:
            transforms['scale'] = (IMAGE_SIZE, IMAGE_SIZE)
        transforms = list(transforms.values())
    if isinstance(transforms, list | tuple):
        for item in transforms:
            _resize(item)
