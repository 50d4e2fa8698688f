"""A recipe of a plain config: which presets suit a head, and what cannot be made one."""

from __future__ import annotations

from typing import Any

import pytest
from mmdet.models import CrossEntropyLoss, DETRHead
from mmengine.config import Config
from mmengine.hub import get_config

from mmkd.utils import PreflightError
from mmkd.utils.recipe import head_kinds, make_recipe, preset

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
TEACHER = 'teacher.py=teacher.pth'
KINDS = {
    RETINANET: ['dense', 'detector', 'sigmoid'],
    'mmdet::gfl/gfl_r50_fpn_1x_coco.py': ['dense', 'detector', 'sigmoid'],
    'mmdet::ssd/ssd300_coco.py': ['dense', 'detector', 'softmax'],
    'mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py': ['dense', 'detector', 'sigmoid'],
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': ['rcnn', 'detector', 'softmax'],
    'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py': ['rcnn', 'detector', 'softmax'],
    'mmdet::detr/detr_r50_8xb2-150e_coco.py': ['query', 'detector', 'softmax'],
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py': ['query', 'detector', 'sigmoid'],
    'mmpretrain::resnet/resnet18_8xb32_in1k.py': ['classifier', 'softmax'],
}


@pytest.fixture
def config() -> Config:
    return get_config(RETINANET)


@pytest.mark.parametrize('path', KINDS)
def test_presets_are_chosen_by_the_head_that_the_config_names(path: str) -> None:
    cfg = get_config(path)
    assert head_kinds(cfg.model, cfg.default_scope) == KINDS[path]


def test_a_config_in_pure_python_has_classes_in_place_of_their_names() -> None:
    query = get_config('mmdet::detr/detr_r50_8xb2-150e_coco.py').model
    query.bbox_head.merge(dict(type=DETRHead, loss_cls=dict(type=CrossEntropyLoss)))
    query.bbox_head.loss_cls.pop('use_sigmoid')
    assert head_kinds(query, None) == ['query', 'detector', 'softmax']


def test_a_method_has_the_settings_of_its_head() -> None:
    detector, classifier, query = (
        get_config(path)
        for path in (RETINANET, [*KINDS][-1], 'mmdet::detr/detr_r50_8xb2-150e_coco.py')
    )
    assert preset(['ckd'], detector.model, 'mmdet')['ckd']['samples']['type'] == 'mmkd.TeacherTopK'
    assert preset(['ckd'], classifier.model, 'mmpretrain')['ckd'] == dict(
        type='mmkd.CKDLoss', weight=10.0, temperature=1.0
    )
    assert 'samples' not in preset(['ckd'], query.model, 'mmdet')['ckd']
    assert list(preset(['cross_kd'], detector.model, 'mmdet')) == ['cross_kd']


def test_what_is_published_for_a_pair_changes_the_heads_preset() -> None:
    classifier = get_config([*KINDS][-1])
    own = dict(
        kd=dict(task_weight=0.1, kd=dict(weight=0.9)),
        kd_ckd=dict(ckd=dict(weight=3.0, chunk_size=2)),
    )
    alone, both, swapped = (
        preset(names, classifier.model, 'mmpretrain', own)
        for names in (['kd'], ['kd', 'ckd'], ['ckd', 'kd'])
    )
    assert alone == dict(task_weight=0.1, kd=dict(type='mmkd.KDLoss', weight=0.9, temperature=1.0))
    assert both['ckd'] == dict(type='mmkd.CKDLoss', weight=3.0, temperature=1.0, chunk_size=2)
    assert both == swapped
    assert 'task_weight' not in both


def test_the_weight_of_the_students_own_loss_comes_with_the_method() -> None:
    classifier = get_config([*KINDS][-1])
    make_recipe(classifier, TEACHER, 'kd')
    assert (classifier.model.task_weight, classifier.model.losses.kd.weight) == (0.5, 0.5)


def test_the_students_config_is_all_that_changes(config: Config) -> None:
    before = config.to_dict()
    make_recipe(config, TEACHER, 'ckd+pkd')
    assert config.model.type == 'mmkd.Distiller'
    assert config.model.student.to_dict() == before['model']
    assert config.model.teacher == dict(config='teacher.py', checkpoint='teacher.pth')
    assert list(config.model.losses) == ['ckd', 'pkd']
    assert config.custom_imports.imports == ['mmkd']
    others = config.to_dict().keys() - {'model', 'custom_imports'}
    assert all(config[key] == before[key] for key in others)


def test_a_published_teacher_needs_no_checkpoint(config: Config) -> None:
    make_recipe(config, 'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py', 'ckd')
    assert config.model.teacher.checkpoint.endswith('.pth')
    assert 'retinanet_r101_fpn_2x_coco' in config.model.teacher.checkpoint


def test_what_a_config_imports_is_imported_still(config: Config) -> None:
    config.custom_imports = dict(imports='my.heads', allow_failed_imports=False)
    make_recipe(config, TEACHER, 'ckd')
    assert config.custom_imports.imports == ['my.heads', 'mmkd']


@pytest.mark.parametrize(
    ('text', 'teacher'),
    [
        ('a b/lr=0.1/t.py=a b/lr=0.1/t.pth', ('a b/lr=0.1/t.py', 'a b/lr=0.1/t.pth')),
        ('t.yaml=https://host/t.pth?a=1', ('t.yaml', 'https://host/t.pth?a=1')),
        ('no_ending=t.pth', ('no_ending', 't.pth')),
    ],
)
def test_folders_of_a_teacher_may_have_an_equals_sign(
    config: Config, text: str, teacher: tuple[str, str]
) -> None:
    make_recipe(config, text, 'ckd')
    assert (config.model.teacher.config, config.model.teacher.checkpoint) == teacher


def test_a_pair_without_losses_takes_them_and_another_teacher(config: Config) -> None:
    make_recipe(config, TEACHER, 'ckd')
    config.model.losses = {}
    make_recipe(config, None, 'qfl_kd')
    assert config.model.teacher.checkpoint == 'teacher.pth'
    make_recipe(config, 'other.py=other.pth', None)
    assert config.model.teacher.checkpoint == 'other.pth'
    assert list(config.model.losses) == ['qfl_kd']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ((TEACHER, 'ckf'), r"--losses: 'ckf' has no preset for a dense head .*; did you mean ckd"),
        ((TEACHER, 'dkd'), r"--losses: 'dkd' .*; use mmkd\.AEKTLoss"),
        ((TEACHER, 'kd'), r"--losses: 'kd' .*; use mmkd\.QFLKDLoss"),
        ((TEACHER, 'ckd+rkd'), r"--losses: 'rkd' has no preset for a dense head"),
        ((TEACHER, 'ckd+'), r"--losses: '' .*there are: aekt"),
        ((TEACHER, None), r'--losses: .* say --teacher and --losses'),
        ((None, 'ckd'), r'--teacher: .* say --losses and --teacher'),
        (('mine.py', 'ckd'), r'--teacher: .*--teacher mine\.py=CHECKPOINT'),
        (('mmdet::retinanet/nothing.py', 'ckd'), r'--teacher: mmdet::retinanet/nothing\.py'),
    ],
)
def test_what_cannot_be_distilled_says_what_is_missing(
    config: Config, options: tuple[Any, Any], message: str
) -> None:
    with pytest.raises(PreflightError, match=message):
        make_recipe(config, *options)


def test_losses_beside_those_of_a_recipe_are_refused(config: Config) -> None:
    make_recipe(config, TEACHER, 'ckd')
    with pytest.raises(PreflightError, match=r'--losses: the recipe has losses already \(ckd\)'):
        make_recipe(config, None, 'pkd')


def test_one_of_several_teachers_is_named_by_its_own_setting(config: Config) -> None:
    make_recipe(config, TEACHER, 'ckd')
    config.model.teachers = dict(big=config.model.pop('teacher'))
    with pytest.raises(PreflightError, match=r'--teacher: .*several teachers \(big\)'):
        make_recipe(config, TEACHER, None)
