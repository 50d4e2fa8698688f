"""Every recipe for detectors loads and builds, and one of each head family takes a training step on 80 classes."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import re
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.overrides import TorchFunctionMode

from mmkd.datasets import make_shapes
from mmkd.distillers import Distiller
from mmkd.registry import MODELS
from mmkd.teachers import RANDOM_INIT
from mmkd.utils import is_distiller, override_data_root, student_config

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / 'configs'
RECIPES = sorted(
    path.relative_to(CONFIGS).with_suffix('').as_posix()
    for path in CONFIGS.rglob('*.py')
    if path.relative_to(CONFIGS).parts[0] not in ('_base_', 'cifar100', 'imagenet', 'places365')
)
MMDET_CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
PAIRS = {path.stem for path in (CONFIGS / '_base_' / 'pairs').glob('*.py')}
IMAGE_SIZE = 128


def group_of(recipe: str) -> str:
    """Name of the recipes that differ in their losses only: those of a pair, those of a folder of the CKD paper."""
    folder, name = recipe.rsplit('/', 1)
    if folder.startswith('ckd_paper/'):
        return folder
    return name if name in PAIRS else recipe


GROUPS: dict[str, list[str]] = {
    group: [recipe for recipe in RECIPES if group_of(recipe) == group]
    for group in sorted(map(group_of, RECIPES))
}
COCO_PAIRS = [group for group in GROUPS if group in PAIRS or group.startswith('ckd_paper/')]

STEPS = {
    'anchor': 'ckd_aekt/retinanet_r50_r18',
    'point': 'ckd_aekt/fcos_r101_r50',
    'RoI': 'ckd_aekt/faster_rcnn_r101_r50',
    'RoI-masks-features': 'ckd_paper/mask_rcnn_r50_mobilenet_v2/ckd_review_kd',
    'query': 'ckd_aekt/dino_swinl_r50',
}


@functools.cache
def load(recipe: str) -> Config:
    """A recipe as its file says; not to be changed."""
    return Config.fromfile(CONFIGS / f'{recipe}.py')


def distilled(group: str) -> dict[str, Config]:
    """The group's recipes that have a teacher."""
    configs = {recipe: load(recipe) for recipe in GROUPS[group]}
    return {recipe: config for recipe, config in configs.items() if is_distiller(config.model)}


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    """Recipes name teachers that are trained here by paths from the root of the repository."""
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope='module')
def coco80(tmp_path_factory) -> Path:
    """Four training images with COCO's 80 classes, in COCO's layout."""
    folder = tmp_path_factory.mktemp('data') / 'coco80'
    return make_shapes(folder, train=4, val=1, size=IMAGE_SIZE, categories='coco80', workers=1)


def test_recipes_are_found():
    assert {'plain/retinanet_r50', 'ckd/gfl_r101_r50', *STEPS.values()} <= set(RECIPES)


@pytest.mark.parametrize('group', GROUPS)
def test_recipes_load_and_build(group):
    recipes = distilled(group)
    if not recipes:
        (recipe,) = GROUPS[group]
        assert isinstance(build(load(recipe)), nn.Module)
        return
    config = copy.deepcopy(next(iter(recipes.values())))
    for recipe, other in recipes.items():
        assert settings(other, losses=False) == settings(config, losses=False), recipe
    losses = {
        f'{recipe}/{name}'.replace('/', '_'): loss
        for recipe, other in recipes.items()
        for name, loss in other.model.losses.items()
    }
    config.model.losses = losses

    model = build(config)

    assert isinstance(model, Distiller)
    assert set(model.distill_losses) == set(losses)
    assert all(other.model.losses for other in recipes.values())


@pytest.mark.parametrize('group', COCO_PAIRS)
def test_a_plain_config_trains_as_the_pairs_student_does(group):
    student = settings(student_config(next(iter(distilled(group).values()))))
    plain = [
        recipe
        for recipe in RECIPES
        if (recipe.startswith('plain/') or recipe == f'{group}/plain')
        and settings(load(recipe)) == student
    ]

    assert len(plain) == 1


@pytest.mark.parametrize('group', COCO_PAIRS)
def test_a_teachers_checkpoint_is_the_one_published_for_its_config(group):
    teacher = next(iter(distilled(group).values())).model.teacher

    assert teacher.checkpoint == published(teacher.config)['Weights']


def test_the_table_of_the_docs_is_what_the_recipes_and_metafiles_say():
    rows = {row[0]: row[1:] for row in table_rows(REPOSITORY / 'docs' / 'recipes.md')}

    assert rows.keys() == set(COCO_PAIRS)
    for group, (student, student_ap, teacher, teacher_ap, methods, _) in rows.items():
        recipes = distilled(group)
        model = next(iter(recipes.values())).model
        assert f'mmdet::{teacher}.py' == model.teacher.config
        assert teacher_ap == accuracy(teacher), teacher
        if '/' in student:  # else it is composed here and nothing is published
            published_student = Config.fromfile(MMDET_CONFIGS / f'{student}.py').model
            assert {**published_student, '_scope_': 'mmdet'} == model.student, student
            assert student_ap == accuracy(student), student
        paper = group.startswith('ckd_paper/')
        assert sorted(methods.split(', ')) == sorted(
            recipe.split('/')[2 if paper else 0] for recipe in recipes
        )


def test_the_ckd_papers_recipes_contrast_the_rois_of_each_gpu_as_published():
    recipes = [recipe for recipe in RECIPES if recipe.endswith('/ckd_review_kd')]
    published = dict(type='mmkd.CKDLoss', weight=0.1, temperature=1.0)

    assert len(recipes) == 6
    for recipe in recipes:
        losses = load(recipe).to_dict()['model']['losses']
        assert losses['ckd'] == published | dict(same_object='keep', gather=False), recipe


def test_the_ckd_papers_recipes_are_for_the_two_gpus_of_its_runs():
    for recipe in (recipe for recipe in RECIPES if recipe.startswith('ckd_paper/')):
        config = load(recipe)
        assert 2 * config.train_dataloader.batch_size == config.auto_scale_lr.base_batch_size, (
            recipe
        )


def test_norms_have_no_weight_decay_in_the_ckd_papers_recipes_as_in_detectron2():
    config = load('ckd_paper/faster_rcnn_r50_mobilenet_v2/review_kd')
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


@pytest.mark.parametrize('recipe', STEPS.values(), ids=list(STEPS))
def test_a_recipe_takes_a_training_step(recipe, coco80):
    config = small(load(recipe), coco80)
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


def settings(config: Config, losses: bool = True) -> dict[str, Any]:
    """What a run reads of a config: not the imports, nor the losses that the recipe was composed from."""
    composed = {folder.name for folder in CONFIGS.iterdir()} | {'custom_imports'}
    found = {key: value for key, value in config.to_dict().items() if key not in composed}
    if not losses:
        del found['model']['losses']
    return found


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


@functools.cache
def _metafile(folder: str) -> list[dict[str, Any]]:
    content = yaml.safe_load((MMDET_CONFIGS / folder / 'metafile.yml').read_text())
    return content['Models'] if isinstance(content, dict) else content


def published(config: str) -> dict[str, Any]:
    """MMDetection's own entry for one of its configs, ``'mmdet::gfl/gfl_r50_fpn_1x_coco.py'``."""
    path = config.removeprefix('mmdet::')
    (entry,) = (
        model
        for model in _metafile(path.split('/')[0])
        if model['Config'].removeprefix('configs/') == path
    )
    return entry


def accuracy(config: str) -> str:
    """Published box AP, or box and mask AP, as the docs write them."""
    results = {result['Task']: result['Metrics'] for result in published(f'{config}.py')['Results']}
    values = [results['Object Detection']['box AP']]
    if 'Instance Segmentation' in results:
        values.append(results['Instance Segmentation']['mask AP'])
    return ' / '.join(f'{value:.1f}' for value in values)


def table_rows(page: Path) -> list[list[str]]:
    """The cells of the page's tables whose first cell is code, without the backticks."""
    return [
        [cell.strip().replace('`', '') for cell in line.strip('|').split('|')]
        for line in page.read_text().splitlines()
        if re.match(r'\| `', line)
    ]
