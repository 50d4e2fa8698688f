"""A teacher of other classes teaches as one whose checkpoint was reordered and cut by hand."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import asks
import pytest
import torch
import zoo
from mmengine.config import Config
from tiny import fresh_hub, student_model, teacher_model
from torch import Tensor, nn

from mmkd.distillers import Distiller
from mmkd.structures import SampleTable

STUDENT = ('apple', 'bear', 'chair', 'dog')
MORE = ('zebra', 'dog', 'apple', 'yak', 'chair', 'bear')
REORDERED = ('dog', 'apple', 'chair', 'bear')
LOSSES = dict(
    ckd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.PositivesAndTeacherTopK', k=8)),
    aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill'),
)


@dataclass(frozen=True)
class Family:
    """A small pair of one head family.

    Attributes:
        models: Number of classes to model configs of student and teacher.
        classifiers: Pattern of the parameters that have a row per class.
        background: The head has one more row, for the background.
        size: Pixels of the images.
    """

    models: Callable[[int], tuple[Any, Any]]
    classifiers: str
    background: bool = False
    size: int = 64


@functools.cache
def _small(config: str, **options: Any) -> tuple[Config, Config]:
    return zoo.pair(f'mmdet::{config}.py', **options)


def _retinanet(classes: int) -> tuple[Any, Any]:
    return tuple(make(bbox_head__num_classes=classes) for make in (student_model, teacher_model))


def _detector(config: str, where: str, **options: Any) -> Callable[[int], tuple[Any, Any]]:
    def models(classes: int) -> tuple[Any, Any]:
        pair = copy.deepcopy(_small(config, **options))
        for model in pair:
            head = functools.reduce(lambda node, key: node[key], where.split('.'), model)
            for part in head if isinstance(head, list) else [head]:
                part.num_classes = classes
            _shrink_queries(model)
        return pair

    return models


def _shrink_queries(model: Any) -> None:
    if 'decoder' in model:
        model.bbox_head.embed_dims = zoo.WIDTH
        model.encoder.num_layers = model.decoder.num_layers = 1
    if model.get('roi_head', {}).get('type') == 'SparseRoIHead':
        model.rpn_head.proposal_feature_channel = zoo.WIDTH
        model.roi_head.update(
            proposal_feature_channel=zoo.WIDTH, num_stages=1, stage_loss_weights=[1]
        )
        model.roi_head.bbox_head = model.roi_head.bbox_head[:1]
        model.train_cfg.rcnn = model.train_cfg.rcnn[:1]


FAMILIES = {
    'dense': Family(_retinanet, r'bbox_head\.retina_cls'),
    'objectness': Family(
        _detector('yolox/yolox_tiny_8xb8-300e_coco', 'bbox_head'),
        r'bbox_head\.multi_level_conv_cls',
    ),
    'roi': Family(
        _detector(
            'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
            'roi_head.bbox_head',
            train_cfg__rcnn__sampler__num=16,
            train_cfg__rpn_proposal__nms_pre=32,
            train_cfg__rpn_proposal__max_per_img=32,
        ),
        r'roi_head\.bbox_head\.fc_cls',
        background=True,
    ),
    'query': Family(
        _detector('deformable_detr/deformable-detr_r50_16xb2-50e_coco', 'bbox_head'),
        r'bbox_head\.cls_branches',
    ),
    'softmax query': Family(
        _detector('detr/detr_r50_8xb2-150e_coco', 'bbox_head'),
        r'bbox_head\.fc_cls',
        background=True,
    ),
    'stages of queries': Family(
        _detector('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco', 'roi_head.bbox_head'),
        r'roi_head\.bbox_head\.\d\.fc_cls',
    ),
}
every_family = pytest.mark.parametrize('name', FAMILIES)


@pytest.fixture(autouse=True)
def _no_run_is_left() -> Iterator[None]:
    yield
    fresh_hub()


def build(student: Any, teacher: Any, names: tuple[str, ...] | None = None) -> Distiller:
    """A distiller with the same random student each time, whose teacher has classes of these names."""
    zoo.register_all_modules(init_default_scope=False)
    # MMDetection's detectors write into their own configs.
    student, teacher = copy.deepcopy(student), copy.deepcopy(teacher)
    options = dict(config=dict(model=teacher, default_scope='mmdet'), checkpoint='random_init')
    torch.manual_seed(0)
    with zoo.mmdet_scope():
        model = Distiller(student, options | dict(class_names=names), LOSSES)
        model.init_weights()
        model.teacher.model.init_weights()
    return model.train()


def step(model: Distiller, size: int) -> tuple[dict[str, Tensor], list[SampleTable]]:
    """Losses and tables of one training step on a data set of the student's classes."""
    fresh_hub(dataset_meta=dict(classes=STUDENT))
    steps = zoo.record_steps(model)
    torch.manual_seed(1)
    losses = zoo.one_step(model, zoo.batch(size=size, num_classes=len(STUDENT)))
    return losses, asks.tables(steps[0])


def randomise(teacher: nn.Module, family: Family) -> None:
    """Give every class of the teacher logits of its own; a fresh head's are nearly alike."""
    noise = torch.Generator().manual_seed(2)
    for key, value in teacher.state_dict().items():
        if re.match(family.classifiers, key):
            value.copy_(torch.randn(value.shape, generator=noise) * 0.3)


def rearrange(teacher: nn.Module, source: nn.Module, order: list[int], family: Family) -> None:
    """Copy the source's weights, of its classes those of ``order``, one after the other by hand."""
    theirs = source.state_dict()
    columns = [*order, *[len(order)] * family.background]  # the background is the last row of both
    for key, value in teacher.state_dict().items():
        if re.match(family.classifiers, key):
            value.copy_(torch.stack([theirs[key][column] for column in columns]))
        elif value.shape == theirs[key].shape:
            value.copy_(theirs[key])


@every_family
def test_another_order_of_classes_changes_nothing(name: str) -> None:
    family = FAMILIES[name]
    models = family.models(len(STUDENT))
    model, by_hand = build(*models, REORDERED), build(*models)
    randomise(model.teacher.model, family)
    order = [REORDERED.index(one) for one in STUDENT]
    rearrange(by_hand.teacher.model, model.teacher.model, order, family)

    losses, tables = step(model, family.size)
    expected, expected_tables = step(by_hand, family.size)

    for loss in LOSSES:
        torch.testing.assert_close(losses[f'loss_{loss}'], expected[f'loss_{loss}'])
        assert losses[f'loss_{loss}'] > 0
    for table, other in zip(tables, expected_tables, strict=True):
        every = torch.arange(len(table))
        torch.testing.assert_close(table.teacher_logits(every), other.teacher_logits(every))
        torch.testing.assert_close(table.teacher_confidence(), other.teacher_confidence())


@pytest.mark.parametrize('name', [name for name in FAMILIES if not FAMILIES[name].background])
def test_classes_of_the_teacher_alone_are_as_if_it_had_never_had_them(name: str) -> None:
    family = FAMILIES[name]
    student, _ = family.models(len(STUDENT))
    model = build(student, family.models(len(MORE))[1], MORE)
    by_hand = build(*family.models(len(STUDENT)))
    randomise(model.teacher.model, family)
    order = [MORE.index(one) for one in STUDENT]
    rearrange(by_hand.teacher.model, model.teacher.model, order, family)

    losses, tables = step(model, family.size)
    expected, _ = step(by_hand, family.size)

    for loss in LOSSES:
        torch.testing.assert_close(losses[f'loss_{loss}'], expected[f'loss_{loss}'])
    assert tables[0].teacher_logits(torch.arange(1)).shape == (1, len(STUDENT))


@pytest.mark.parametrize('name', ['roi', 'softmax query'])
def test_a_softmax_teacher_keeps_its_probabilities_of_the_students_classes(name: str) -> None:
    family = FAMILIES[name]
    student, _ = family.models(len(STUDENT))
    model = build(student, family.models(len(MORE))[1], MORE)
    randomise(model.teacher.model, family)
    seen: list[Tensor] = []
    classifier = next(
        module
        for key, module in model.teacher.model.named_modules()
        if re.fullmatch(family.classifiers, key)
    )
    classifier.register_forward_hook(lambda module, args, output: seen.append(output))

    losses, tables = step(model, family.size)

    assert all(losses[f'loss_{loss}'] > 0 for loss in LOSSES)
    table = tables[-1]
    rows = table.teacher_logits(torch.arange(len(table)))
    own = torch.cat([output.reshape(-1, len(MORE) + 1) for output in seen]).softmax(dim=1)
    wanted = own[:, [MORE.index(one) for one in STUDENT]]
    found = rows.softmax(dim=1)[:, : len(STUDENT)]
    distance = (found[:, None] - wanted).abs().amax(dim=2)
    assert distance.amin(dim=1).max() < 1e-6  # every row is one of the teacher's own
    torch.testing.assert_close(table.teacher_confidence(), found.amax(dim=1))
