"""LD: values against a plain formula and MMDetection's own LDHead, and what it refuses."""

from __future__ import annotations

import copy
import math
from typing import Any

import asks
import pytest
import torch
import zoo
from given_boxes import POSITIVES, BoxTable, make_table, step_of
from mmdet.registry import MODELS

from mmkd.losses import BoxGIoULoss, LDLoss

LD = dict(type='mmkd.LDLoss')
GFL = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def divergences(table: BoxTable, temperature: float) -> dict[int, float]:
    """Of every positive, the mean over sides of the mean over bins, times the squared temperature."""
    student, teacher = table.student_bins.tolist(), table.teacher_bins.tolist()
    found = {}
    for i in POSITIVES:
        terms = [
            p * math.log(p / q)
            for s, t in zip(student[i], teacher[i], strict=True)
            for p, q in zip(softmax(t, temperature), softmax(s, temperature), strict=True)
        ]
        found[i] = temperature**2 * sum(terms) / len(terms)
    return found


@pytest.mark.parametrize('temperature', [1.0, 10.0])
def test_published_form_is_a_sum_weighted_by_the_students_confidence(temperature: float) -> None:
    table = make_table()
    parts = divergences(table, temperature)
    expected = sum((table.ours[i] * table.weights[i]).item() * part for i, part in parts.items())
    value = LDLoss(temperature=temperature)(step_of(table))
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_the_teachers_confidence_can_weigh_and_the_weights_can_average() -> None:
    table = make_table()
    parts = divergences(table, 10.0)
    weights = {i: (table.theirs[i] * table.weights[i]).item() for i in parts}
    total = sum(weights[i] * parts[i] for i in parts)
    value = LDLoss(confidence='teacher')(step_of(table))
    assert value.item() == pytest.approx(total, rel=1e-6)
    mean = LDLoss(confidence='teacher', average='confidence')(step_of(table))
    assert mean.item() == pytest.approx(total / sum(weights.values()), rel=1e-6)


def test_gradient_reaches_the_students_positives_and_nothing_of_the_teacher() -> None:
    table = make_table()
    LDLoss()(step_of(table)).backward()
    assert table.teacher_bins.grad is None
    assert table.student.grad is None
    touched = table.student_bins.grad.flatten(1).any(dim=1)
    assert touched.nonzero().flatten().tolist() == POSITIVES


def test_without_positives_the_loss_is_a_zero_of_the_graph() -> None:
    table = make_table(labels=torch.ones(12, dtype=torch.long))
    value = LDLoss()(step_of(table))
    assert value == 0
    value.backward()
    assert not table.student_bins.grad.any()


def test_box_losses_share_their_pairs() -> None:
    step = step_of(make_table())
    LDLoss()(step)
    (pairs,) = asks.box_pairs(step, LDLoss().sampler)
    BoxGIoULoss()(step)
    assert asks.box_pairs(step, BoxGIoULoss().sampler)[0] is pairs


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(temperature=0.0), r'LDLoss\.temperature: 0\.0 is not a positive'),
        (dict(confidence='both'), r"LDLoss\.confidence: 'both' is neither 'student' nor"),
        (dict(average='mean'), r"LDLoss\.average: 'mean' is neither 'none' nor"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LDLoss(**options)


# On real detectors


def test_it_is_what_mmdetections_ldhead_adds_and_trains_the_box_branch_alone() -> None:
    student, teacher = zoo.pair(GFL)
    model = zoo.distiller(student, teacher, losses=dict(ld=LD))
    noise = torch.Generator().manual_seed(0)
    for head in (model.student.bbox_head, model.teacher.model.bbox_head):
        with torch.no_grad():  # untrained heads predict the same distribution everywhere
            head.gfl_reg.weight.add_(0.3 * torch.randn(head.gfl_reg.weight.shape, generator=noise))
    data = zoo.batch(num_images=3, boxes=(3, 0, 2))
    losses = zoo.one_step(model, data, of='loss_ld')
    parts = [
        zoo.gradient(getattr(model.student.bbox_head, name)) for name in ('gfl_reg', 'gfl_cls')
    ]

    options = copy.deepcopy(student.bbox_head)
    options.type = 'LDHead'
    options.loss_ld = dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10)
    options.update(train_cfg=student.train_cfg, test_cfg=student.test_cfg)
    with zoo.mmdet_scope(), torch.no_grad():
        head = MODELS.build(options)
        head.load_state_dict(model.student.bbox_head.state_dict())
        taught = model.teacher.model.bbox_head(model.teacher.model.extract_feat(data['inputs']))
        features = model.student.extract_feat(data['inputs'])
        expected = sum(head.loss(features, taught, data['data_samples'])['loss_ld'])

    assert expected > 0.01
    torch.testing.assert_close(losses['loss_ld'].detach(), expected, rtol=1e-4, atol=0)
    assert torch.isfinite(parts[0]).all()
    assert parts[0].any()
    assert not parts[1].any()
    assert zoo.gradient(model.student.backbone).any()


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ('retinanet/retinanet_r18_fpn_1x_coco', r"LDLoss: the student's RetinaHead .*BoxGIoULoss"),
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', r'LDLoss: StandardRoIHead .*BoxGIoULoss'),
        ('detr/detr_r50_8xb2-150e_coco', r'LDLoss: DETRHead .*BoxL1Loss'),
    ],
)
def test_heads_without_distributions_are_refused_with_what_to_use(
    config: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.distiller(*zoo.pair(f'mmdet::{config}.py'), losses=dict(tested=LD))


def test_a_teacher_without_distributions_or_with_other_bins_is_refused() -> None:
    student, teacher = zoo.pair(GFL)
    atss = zoo.pair('mmdet::atss/atss_r50_fpn_1x_coco.py')[1]
    with pytest.raises(ValueError, match=r"LDLoss: the teacher's ATSSHead predicts the sides"):
        zoo.distiller(student, atss, losses=dict(tested=LD))
    teacher.bbox_head.reg_max = 8
    with pytest.raises(ValueError, match=r'the student has reg_max 16, the teacher 8'):
        zoo.distiller(student, teacher, losses=dict(tested=LD))
