from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import zoo
from dense_runs import Run, pair, run, take_step
from mmengine.logging import MessageHub
from torch import Tensor
from torchvision.ops import box_iou


@pytest.fixture(autouse=True, scope='module')
def _clean_up() -> Iterator[None]:
    yield
    run.cache_clear()
    MessageHub.get_current_instance().runtime_info.pop('epoch', None)


def seen_by_the_loss(stepped: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, labels and weights that the head gave to its own classification loss, all calls in order."""
    rows, labels, weights = [], [], []
    for (prediction, target, *weight), options in stepped.loss_inputs:
        if (
            'reduction_override' in options
        ):  # PAA looks at the loss of each positive before it reassigns
            continue
        rows.append(prediction.detach())
        labels.append(target[0] if isinstance(target, tuple) else target)
        weights.append(weight[0] if weight else options['weight'])
    return torch.cat(rows), torch.cat(labels), torch.cat(weights)


@pytest.mark.parametrize(
    ('name', 'levels_first'),
    [
        ('RetinaNet', True),
        ('GHM', True),
        ('SABL', True),
        ('ATSS', True),
        ('DyHead', True),
        ('GFL', True),
        ('DDOD', True),
        ('TOOD', True),
        ('PAA', False),
        ('YOLOF', False),
    ],
)
def test_labels_and_weights_are_those_of_the_heads_own_loss(name, levels_first):
    stepped = run(name)
    table = stepped.table
    order = stepped.level_major if levels_first else torch.arange(len(table))
    rows, labels, weights = seen_by_the_loss(stepped)
    student = table.student_logits(order).detach()
    if name == 'TOOD':
        student = student.sigmoid()
    torch.testing.assert_close(student, rows, rtol=0, atol=1e-6)
    assert torch.equal(table.labels[order], labels)
    assert torch.equal(table.weights[order], weights)
    assert table.is_foreground().any()


@pytest.mark.parametrize('name', ['RetinaNet', 'ATSS', 'SSD'])
def test_labels_are_those_of_targets_assigned_once_more(name):
    stepped = run(name)
    head, table = stepped.head, stepped.table
    samples = stepped.data['data_samples']
    metas = [sample.metainfo for sample in samples]
    sizes = [level.shape[-2:] for level in table.student.class_maps]
    anchors, valid = head.get_anchors(sizes, metas, device='cpu')
    targets = head.get_targets(anchors, valid, [sample.gt_instances for sample in samples], metas)
    labels, weights = targets[1:3] if name == 'ATSS' else targets[:2]
    assert table.labels.tolist() == torch.cat(labels, dim=1).flatten().tolist()
    assert table.weights.tolist() == torch.cat(weights, dim=1).flatten().tolist()
    assert table.is_foreground().any()


def of_one_class(data: dict[str, Any]) -> dict[str, Any]:
    """The batch with all objects of class 7, so that a label no longer tells which object it is."""
    for sample in data['data_samples']:
        sample.gt_instances.labels.fill_(7)
    return data


@pytest.mark.parametrize(
    ('name', 'assigner', 'epoch'),
    [
        ('RetinaNet', 'assigner', 0),
        ('SABL', 'assigner', 0),
        ('YOLOF', 'assigner', 0),
        ('GFL', 'assigner', 0),
        ('DDOD', 'cls_assigner', 0),
        ('TOOD', 'initial_assigner', 0),
        ('TOOD', 'alignment_assigner', 10),
    ],
)
def test_objects_are_those_of_the_assigner(name, assigner, epoch, monkeypatch):
    model = zoo.distiller(*pair(name))
    assigned = []
    owner = getattr(model.student.bbox_head, assigner)
    assign = owner.assign

    def record(*args, **kwargs):
        result = assign(*args, **kwargs)
        assigned.append(result.gt_inds - 1)
        return result

    monkeypatch.setattr(owner, 'assign', record)
    size = 384 if name == 'DDOD' else 128
    stepped = take_step(model, of_one_class(zoo.batch(boxes=(3, 2), size=size)), epoch)
    expected = torch.cat(assigned[:2]).clamp(min=-1)
    assert stepped.table.object_ids.tolist() == expected.tolist()
    assert (expected >= 0).any()


def test_tood_uses_its_second_phase_after_the_first():
    model = zoo.distiller(*pair('TOOD'))
    data = zoo.batch(boxes=(3, 2))
    first, second = (take_step(model, data, epoch) for epoch in (0, 10))
    for stepped in (first, second):
        _, labels, _ = seen_by_the_loss(stepped)
        assert torch.equal(stepped.table.labels[stepped.level_major], labels)
        assert stepped.table.is_foreground().any()
    assert first.table.labels.tolist() != second.table.labels.tolist()


def test_paa_drops_positives_of_its_first_assignment():
    stepped = run('PAA')
    assert stepped.table.is_foreground().any()
    candidates = torch.cat([targets[0] for targets in stepped.step.records['targets']]) < 80
    foreground = stepped.table.is_foreground()
    assert (candidates | ~foreground).all()
    assert candidates.sum() > foreground.sum()


def test_fsaf_keeps_one_level_of_each_object():
    stepped = run('FSAF')
    table = stepped.table
    candidates = torch.cat([targets[0] for targets in stepped.step.records['targets']]) < 80
    foreground = table.is_foreground()
    assert (candidates & ~foreground).any()  # some object had positives on two levels
    assert (table.weights[candidates & ~foreground] == 0).all()
    levels = torch.arange(5).repeat_interleave(torch.tensor(stepped.sizes)).repeat(3)
    kept = {}
    for image, object_id, level in zip(
        table.image_ids[foreground], table.object_ids[foreground], levels[foreground], strict=True
    ):
        kept.setdefault((int(image), int(object_id)), set()).add(int(level))
    assert kept
    assert all(len(chosen) == 1 for chosen in kept.values())
    # FSAF's own count of positives, of its log
    assert stepped.losses['num_pos'] * 3 == foreground.sum()


def test_freeanchor_positives_predict_a_box_of_their_object():
    stepped = run('FreeAnchor')
    table, head = stepped.table, stepped.head
    anchors = table.priors
    maps = stepped.step.records['head'][0][1]
    deltas = torch.cat([level.permute(0, 2, 3, 1).reshape(3, -1, 4) for level in maps], dim=1)
    for image, sample in enumerate(stepped.data['data_samples']):
        objects = sample.gt_instances
        assert len(objects.labels.unique()) == len(objects)
        labels = table.labels.view(3, -1)[image]
        if not len(objects):
            assert (labels == 80).all()
            continue
        overlaps = box_iou(head.bbox_coder.decode(anchors, deltas[image].detach()), objects.bboxes)
        best = overlaps.amax(dim=0).clamp(min=0.6 + 1e-12)
        probability = ((overlaps - 0.6) / (best - 0.6)).clamp(0, 1)
        highest, of = probability.max(dim=1)
        expected = torch.where(highest >= 0.5, objects.labels[of], 80)
        assert labels.tolist() == expected.tolist()
        object_ids = table.object_ids.view(3, -1)[image]
        assert object_ids.tolist() == torch.where(highest >= 0.5, of, -1).tolist()
    assert table.is_foreground().any()


def test_ssd_keeps_the_background_column():
    stepped = run('SSD')
    table = stepped.table
    assert table.activation == 'softmax'
    assert table.student_logits(torch.arange(3)).shape == (3, 81)
    assert stepped.model._heads['teacher'].num_logits == 81


def test_boxes_are_the_anchors():
    stepped = run('RetinaNet')
    table = stepped.table
    generator = stepped.head.prior_generator
    sizes = [level.shape[-2:] for level in table.student.class_maps]
    anchors = torch.cat(generator.grid_priors(sizes, device='cpu'))
    index = torch.tensor([0, len(anchors) - 1, len(anchors), 2 * len(anchors) + 5])
    assert torch.equal(table.boxes(index), anchors[[0, -1, 0, 5]])
