"""Box imitation: values against plain formulas, and gradients in the box branches of real detectors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import zoo
from given_boxes import IMAGES, POSITIVES, BoxTable, make_table, step_of
from mmengine.registry import DefaultScope

from mmkd.distillers import Distiller
from mmkd.losses import AllSamples, BoxGIoULoss, BoxL1Loss, Positives

GIOU = dict(type='mmkd.BoxGIoULoss')
L1 = dict(type='mmkd.BoxL1Loss')
BOTH = dict(giou=GIOU, l1=L1)


def giou(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    inter = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull


def weighted_mean(table: BoxTable, values: dict[int, float]) -> float:
    weights = {i: (table.theirs[i] * table.weights[i]).item() for i in values}
    return sum(weights[i] * values[i] for i in values) / sum(weights.values())


def boxes_of(table: BoxTable) -> tuple[list[list[float]], list[list[float]]]:
    return table.student.tolist(), table.teacher.tolist()


# Values


def test_giou_is_a_mean_over_positives_weighted_by_the_teachers_confidence() -> None:
    table = make_table()
    student, teacher = boxes_of(table)
    expected = weighted_mean(table, {i: 1 - giou(student[i], teacher[i]) for i in POSITIVES})
    assert BoxGIoULoss()(step_of(table)).item() == pytest.approx(expected, rel=1e-6)


def test_l1_is_in_units_of_the_image() -> None:
    table = make_table()
    student, teacher = boxes_of(table)
    values = {}
    for i in POSITIVES:
        height, width = IMAGES[0 if i < 5 else 1]
        values[i] = sum(
            abs(a - b) / size
            for a, b, size in zip(student[i], teacher[i], [width, height] * 2, strict=True)
        )
    expected = weighted_mean(table, values)
    assert BoxL1Loss()(step_of(table)).item() == pytest.approx(expected, rel=1e-6)


def test_l1_can_be_in_units_of_the_teachers_box() -> None:
    table = make_table()
    with torch.no_grad():
        table.teacher[0, 2] = table.teacher[0, 0] + 1e-3  # counts as one pixel wide
    student, teacher = boxes_of(table)
    values = {}
    for i in POSITIVES:
        size = [max(teacher[i][2 + axis] - teacher[i][axis], 1.0) for axis in (0, 1)] * 2
        values[i] = sum(
            abs(a - b) / s for a, b, s in zip(student[i], teacher[i], size, strict=True)
        )
    value = BoxL1Loss(unit='teacher')(step_of(table)).item()
    assert value == pytest.approx(weighted_mean(table, values), rel=1e-6)


@pytest.mark.parametrize('loss', [BoxGIoULoss(), BoxL1Loss()])
def test_a_box_that_the_teacher_is_not_sure_of_counts_for_nothing(loss: Any) -> None:
    table = make_table()
    table.theirs[POSITIVES[1]] = 0
    before = loss(step_of(table))
    with torch.no_grad():
        table.student[POSITIVES[1]] += 7
    assert loss(step_of(table)) == before


@pytest.mark.parametrize('loss', [BoxGIoULoss(), BoxL1Loss()])
def test_gradient_reaches_the_students_positives_and_nothing_of_the_teacher(loss: Any) -> None:
    table = make_table()
    loss(step_of(table)).backward()
    assert table.teacher.grad is None
    assert table.student.grad.any(dim=1).nonzero().flatten().tolist() == POSITIVES


@pytest.mark.parametrize('loss', [BoxGIoULoss(), BoxL1Loss()])
def test_without_positives_the_loss_is_a_zero_of_the_graph(loss: Any) -> None:
    table = make_table(labels=torch.ones(12, dtype=torch.long))
    value = loss(step_of(table))
    assert value == 0
    value.backward()
    assert not table.student.grad.any()


@pytest.mark.parametrize('network', ['student', 'teacher'])
def test_a_box_with_its_sides_in_the_wrong_order_has_no_giou(network: str) -> None:
    table = make_table()
    with torch.no_grad():
        getattr(table, network)[2] = torch.tensor([9.0, 9.0, 3.0, 20.0])
    student, teacher = boxes_of(table)
    kept = [i for i in POSITIVES if i != 2]
    expected = weighted_mean(table, {i: 1 - giou(student[i], teacher[i]) for i in kept})
    value = BoxGIoULoss()(step_of(table))
    assert value.item() == pytest.approx(expected, rel=1e-6)
    value.backward()
    assert not table.student.grad[2].any()


def test_a_student_box_that_is_not_a_number_is_no_box_in_the_wrong_order() -> None:
    table = make_table()
    with torch.no_grad():
        table.student[2] = math.nan
    assert BoxGIoULoss()(step_of(table)).isnan()


def test_tables_are_averaged_and_samples_can_be_chosen() -> None:
    tables = make_table(seed=0), make_table(seed=1)
    loss = BoxGIoULoss(samples=dict(type='mmkd.AllSamples'))
    parts = [loss(step_of(table)) for table in tables]
    torch.testing.assert_close(loss(step_of(*tables)), torch.stack(parts).mean())
    assert (loss.sampler, BoxL1Loss().sampler) == (AllSamples(), Positives())
    assert parts[0] != BoxGIoULoss()(step_of(tables[0]))


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"BoxL1Loss\.unit: 'pixel'"):
        BoxL1Loss(unit='pixel')  # type: ignore[arg-type]


# On real detectors

RCNN = dict(
    train_cfg__rcnn__sampler__num=32,
    train_cfg__rpn_proposal__nms_pre=64,
    train_cfg__rpn_proposal__max_per_img=64,
)
DETECTORS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    'RetinaNet': (
        'retinanet/retinanet_r18_fpn_1x_coco',
        {},
        'bbox_head.retina_reg',
        'bbox_head.retina_cls',
    ),
    'FCOS': (
        'fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco',
        {},
        'bbox_head.conv_reg',
        'bbox_head.conv_cls',
    ),
    'Faster R-CNN': (
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
        RCNN,
        'roi_head.bbox_head.fc_reg',
        'roi_head.bbox_head.fc_cls',
    ),
    'DETR': ('detr/detr_r50_8xb2-150e_coco', {}, 'bbox_head.fc_reg', 'bbox_head.fc_cls'),
}


def small(name: str) -> tuple[Any, Any]:
    config, options, *_ = DETECTORS[name]
    student, teacher = zoo.pair(f'mmdet::{config}.py', **options)
    if name == 'DETR':
        for model in (student, teacher):
            model.encoder.num_layers, model.decoder.num_layers = 1, 2
    return student, teacher


@pytest.mark.parametrize('name', DETECTORS)
def test_a_step_has_a_gradient_in_the_box_branch_and_none_in_the_classifier(name: str) -> None:
    *_, regressor, classifier = DETECTORS[name]
    model = zoo.distiller(*small(name), losses=BOTH)
    if name == 'FCOS':  # an untrained FCOS of this kind predicts no extent half of the time
        torch.nn.init.constant_(model.student.bbox_head.conv_reg.bias, 1.0)
    for loss in ('loss_giou', 'loss_l1'):
        losses = zoo.one_step(model, zoo.batch(boxes=(3, 2)), of=loss)
        assert 0 < losses[loss].item() < float('inf')
        gradient = zoo.gradient(model.student.get_submodule(regressor))
        assert torch.isfinite(gradient).all()
        assert gradient.any()
        assert zoo.gradient(model.student.backbone).any()
        assert not zoo.gradient(model.student.get_submodule(classifier)).any()
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())


def test_a_batch_without_objects_teaches_no_box() -> None:
    model = zoo.distiller(*small('RetinaNet'), losses=BOTH)
    losses = zoo.one_step(model, zoo.batch(boxes=(0,)), of=('loss_giou', 'loss_l1'))
    assert losses['loss_giou'] == losses['loss_l1'] == 0
    assert not zoo.gradient(model.student).any()


def test_the_teachers_head_runs_once_for_logits_and_boxes() -> None:
    ckd = dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.Positives'))
    for name, path in (('RetinaNet', 'bbox_head'), ('Faster R-CNN', 'roi_head.bbox_head')):
        losses = dict(giou=GIOU, l1=L1) if name == 'Faster R-CNN' else dict(ckd=ckd, **BOTH)
        model = zoo.distiller(*small(name), losses=losses)
        calls: list[Any] = []
        head = model.teacher.model.get_submodule(path)
        head.register_forward_hook(lambda *seen, to=calls: to.append(seen))
        zoo.one_step(model, zoo.batch(boxes=(3, 2)))
        assert len(calls) == 1


def test_a_head_that_predicts_no_boxes_is_an_error_when_the_distiller_is_built() -> None:
    student, teacher = zoo.pair(
        'mmdet::grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco.py',
        roi_head__grid_head__num_convs=1,
        roi_head__grid_head__point_feat_channels=4,
    )
    with pytest.raises(ValueError, match=r'BoxGIoULoss: .*with_reg=False.*loss on logits'):
        zoo.distiller(student, teacher, losses=dict(tested=GIOU))


def test_stages_of_boxes_have_to_agree() -> None:
    student, _ = small('Faster R-CNN')
    cascade = zoo.pair('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py')[1]
    with pytest.raises(ValueError, match=r'number of stages: the student has 1, the teacher 3'):
        zoo.distiller(student, cascade, losses=dict(tested=GIOU))


def test_a_classifier_has_no_boxes() -> None:
    classifier = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=64),
    )
    with (
        DefaultScope.overwrite_default_scope('mmpretrain'),
        pytest.raises(ValueError, match=r'BoxGIoULoss: ClassifierAdapter.*gives no boxes'),
    ):
        Distiller(
            student=classifier,
            teacher=dict(
                config=dict(model=classifier, default_scope='mmpretrain'),
                checkpoint='random_init',
            ),
            losses=dict(tested=GIOU),
        )
