"""Matched queries: the ones of both networks that predict the most alike."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import asks
import pytest
import torch
import zoo
from kept_rows import from_rows
from query_models import QUERIES, TEACHER_QUERIES, batch, models, vary_boxes
from torch import nn

from mmkd.distillers import Distiller
from mmkd.losses import MatchedQueries, Positives
from mmkd.structures import BoxPairs, Holding, LogitPairs, Step
from mmkd.utils.recipe import presets_of

ALL = MatchedQueries()
LOSSES = dict(
    ckd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.MatchedQueries')),
    l1=dict(type='mmkd.BoxL1Loss', samples=dict(type='mmkd.MatchedQueries')),
    objects=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.Positives')),
)


def one_step(model: Distiller) -> tuple[Step, LogitPairs, BoxPairs]:
    steps = zoo.record_steps(model)
    zoo.one_step(model, batch(), of=[f'loss_{name}' for name in model.distill_losses])
    (logits,) = asks.logit_pairs(steps[0], ALL)
    (boxes,) = asks.box_pairs(steps[0], ALL)
    return steps[0], logits, boxes


@pytest.mark.parametrize('name', ['DETR', 'Deformable DETR'])
def test_queries_in_another_order_find_themselves(name: str) -> None:
    config, _ = models(name)
    model = zoo.distiller(config, copy.deepcopy(config), LOSSES, teacher_options=dict(fuse=False))
    model.student.init_weights()
    vary_boxes(model.student)
    teacher = model.teacher.model
    teacher.load_state_dict(model.student.state_dict(), strict=False)
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(0))
    embedding = teacher.query_embedding
    embedding.weight.data = embedding.weight.data[order]
    for module in model.student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    _, logits, boxes = one_step(model)
    assert len(logits) == len(boxes) == 2 * QUERIES
    torch.testing.assert_close(logits.student, logits.teacher, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(boxes.student, boxes.teacher, rtol=1e-3, atol=1e-2)
    assert logits.student.std(dim=0).max() > 1e-4, 'queries differ'


@pytest.mark.parametrize('name', ['DETR', 'Conditional DETR', 'Deformable DETR', 'DINO', 'DDQ'])
def test_positives_are_the_teachers_matches_with_objects(name: str) -> None:
    model = zoo.distiller(*models(name), LOSSES)
    vary_boxes(model.student, model.teacher.model)
    step, logits, boxes = one_step(model)
    assert len(logits) <= 2 * min(QUERIES, TEACHER_QUERIES)
    positive = logits.labels < logits.num_classes
    assert torch.equal(positive, logits.object_ids >= 0)
    (by_object,) = asks.logit_pairs(step, Positives())
    theirs = {
        (int(image), int(object_id)): row
        for image, object_id, row in zip(
            by_object.image_ids, by_object.object_ids, by_object.teacher, strict=True
        )
    }
    assert positive.any()
    for index in positive.nonzero().flatten().tolist():
        image, object_id = int(logits.image_ids[index]), int(logits.object_ids[index])
        torch.testing.assert_close(logits.teacher[index], theirs.pop((image, object_id)))
        objects = step.data_samples[image].gt_instances
        assert logits.labels[index] == objects.labels[object_id]
    assert boxes.student.requires_grad
    assert not boxes.teacher.requires_grad


def test_no_other_assignment_costs_less() -> None:
    model = zoo.distiller(*models('Deformable DETR'), LOSSES)
    vary_boxes(model.student, model.teacher.model)
    _, logits, boxes = one_step(model)
    first = logits.image_ids == 0
    cost = torch.cdist(boxes.student[first], boxes.teacher[first], p=1).detach()
    rows, columns = torch.triu_indices(len(cost), len(cost), offset=1)
    swapped = cost[rows, columns] + cost[columns, rows]
    kept = cost.diagonal()[rows] + cost.diagonal()[columns]
    assert (kept <= swapped).float().mean() > 0.7, 'boxes are most of the cost'


def test_the_published_sum_trains_the_student() -> None:
    losses = presets_of(['query', 'detector', 'sigmoid'])['detr_distill']
    student, teacher = models('DINO', teacher_layers=2)
    model = zoo.distiller(student, teacher, losses, head=dict(layers='all'))
    vary_boxes(model.student, model.teacher.model)
    values, gradients = zoo.gradients_of_each_loss(model, batch(), model.student.backbone)
    for loss, gradient in gradients.items():
        assert values[f'loss_{loss}'] > 0, loss
        assert gradient.isfinite().all(), loss
        assert gradient.any(), loss


def test_confident_scores_in_half_precision_are_matched() -> None:
    model = zoo.distiller(*models('Deformable DETR'), LOSSES)
    step, *_ = one_step(model)
    for call in step.record('predictions'):
        found = call['pred_instances']
        found.scores, found.bboxes = (20 * found.scores.sign()).half(), found.bboxes.half()
    (logits,) = asks.logit_pairs(replace(step), ALL)
    assert len(logits) == 2 * QUERIES


def test_images_without_objects_have_negatives_only() -> None:
    model = zoo.distiller(*models('Deformable DETR'), LOSSES)
    steps = zoo.record_steps(model)
    zoo.one_step(model, batch(boxes=(0,)), of=['loss_ckd', 'loss_l1'])
    (logits,) = asks.logit_pairs(steps[0], ALL)
    assert len(logits) == 2 * QUERIES
    assert (logits.labels == logits.num_classes).all()


@pytest.mark.parametrize('kind', ['SparseRoIHead', 'RetinaHead', 'StandardRoIHead'])
def test_heads_without_such_queries_are_refused(kind: str) -> None:
    two_stage = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    pair: Any = {
        'SparseRoIHead': lambda: models('Sparse R-CNN'),
        'RetinaHead': lambda: zoo.pair('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'),
        'StandardRoIHead': lambda: (models('Deformable DETR')[0], zoo.pair(two_stage)[1]),
    }[kind]()
    with pytest.raises(ValueError, match=rf'samples=mmkd\.MatchedQueries: {kind} has no assigner'):
        zoo.distiller(*pair, LOSSES)


def test_a_store_can_be_matched() -> None:
    model = zoo.distiller(*models('Deformable DETR'), LOSSES)
    vary_boxes(model.student, model.teacher.model)
    live, logits, boxes = one_step(model)
    kept = from_rows(model, live, Holding(boxes=True))
    (their_logits,) = asks.logit_pairs(kept, ALL)
    (their_boxes,) = asks.box_pairs(kept, ALL)
    torch.testing.assert_close(their_logits.teacher, logits.teacher, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(their_boxes.teacher, boxes.teacher)
    assert torch.equal(their_logits.labels, logits.labels)
