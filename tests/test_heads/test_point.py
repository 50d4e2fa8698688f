from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import zoo
from dense_runs import Run, pair, run, take_step
from mmengine.logging import MessageHub
from torch import Tensor


@pytest.fixture(autouse=True, scope='module')
def _clean_up() -> Iterator[None]:
    yield
    run.cache_clear()
    MessageHub.get_current_instance().runtime_info.pop('epoch', None)


def positives(stepped: Run) -> Tensor:
    return stepped.table.is_foreground().nonzero().flatten()


@pytest.mark.parametrize('name', ['FCOS', 'FCOS+', 'NAS-FCOS', 'FoveaBox', 'RepPoints', 'RTMDet'])
def test_labels_are_those_of_the_heads_own_loss(name):
    stepped = run(name)
    rows, labels = [], []
    for (prediction, target, *_), _ in stepped.loss_inputs:
        rows.append(prediction.detach())
        labels.append(target[0] if isinstance(target, tuple) else target)
    order = stepped.level_major
    assert torch.equal(stepped.table.student_logits(order), torch.cat(rows))
    assert torch.equal(stepped.table.labels[order], torch.cat(labels))
    assert len(positives(stepped))


def test_fcos_labels_are_those_of_targets_assigned_once_more():
    stepped = run('FCOS')
    head, table = stepped.head, stepped.table
    sizes = [level.shape[-2:] for level in table.student.class_maps]
    points = head.prior_generator.grid_priors(sizes, device='cpu')
    objects = [sample.gt_instances for sample in stepped.data['data_samples']]
    labels, _ = head.get_targets(points, objects)
    assert table.labels[stepped.level_major].tolist() == torch.cat(labels).tolist()


@pytest.mark.parametrize('use_atss', [True, False])
def test_vfnet_labels_are_those_of_either_assignment(use_atss):
    student, teacher = pair('VFNet')
    student.bbox_head.use_atss = use_atss
    stepped = take_step(zoo.distiller(student, teacher), zoo.batch(boxes=(3, 2)))
    (rows, scores), _ = stepped.loss_inputs[0]
    order = stepped.level_major
    assert torch.equal(stepped.table.student_logits(order), rows)
    expected = torch.where(scores.amax(dim=1) > 0, scores.argmax(dim=1), 80)
    assert stepped.table.labels[order].tolist() == expected.tolist()
    assert len(positives(stepped))
    check_objects(stepped)


def check_objects(stepped: Run) -> None:
    table = stepped.table
    for image, sample in enumerate(stepped.data['data_samples']):
        chosen = table.is_foreground() & (table.image_ids == image)
        labels = sample.gt_instances.labels[table.object_ids[chosen]]
        assert labels.tolist() == table.labels[chosen].tolist()


@pytest.mark.parametrize('name', ['FCOS', 'FCOS+', 'FoveaBox', 'RepPoints', 'CenterNet'])
def test_objects_are_found_without_the_help_of_labels(name):
    model = zoo.distiller(*pair(name))
    distinct = zoo.batch(boxes=(5, 4), seed=1)
    same = copy.deepcopy(distinct)
    for sample in same['data_samples']:
        sample.gt_instances.labels.fill_(7)
    tables = [take_step(model, data).table for data in (distinct, same)]
    for sample in distinct['data_samples']:
        assert len(sample.gt_instances.labels.unique()) == len(sample.gt_instances)
    assert (tables[0].object_ids >= 0).any()
    assert tables[0].object_ids.tolist() == tables[1].object_ids.tolist()


def test_yolox_positives_are_those_of_the_heads_own_loss():
    stepped = run('YOLOX')
    table = stepped.table
    (rows, scores), _ = stepped.loss_inputs[0]
    assert torch.equal(table.student_logits(positives(stepped)), rows)
    assert (scores.sum(dim=1) > 0).any()
    labels = table.labels[positives(stepped)]
    overlaps = scores.gather(1, labels[:, None])
    assert torch.equal(overlaps.sum(), scores.sum())  # nothing at any other class
    assert table.weights.tolist() == table.is_foreground().float().tolist()


def test_yolox_objects_are_those_of_simota(monkeypatch):
    model = zoo.distiller(*pair('YOLOX'))
    data = zoo.batch(boxes=(4, 3))
    for sample in data['data_samples']:
        sample.gt_instances.labels.fill_(7)
    assigner = model.student.bbox_head.assigner
    assign, assigned = assigner.assign, []

    def record(*args, **kwargs):
        assigned.append(assign(*args, **kwargs))
        return assigned[-1]

    monkeypatch.setattr(assigner, 'assign', record)
    stepped = take_step(model, data)
    expected = torch.cat([result.gt_inds - 1 for result in assigned])
    assert stepped.table.object_ids.tolist() == expected.tolist()
    assert (expected >= 0).any()


def test_autoassign_positives_are_near_their_objects_centre():
    stepped = run('AutoAssign')
    table, head = stepped.table, stepped.head
    sizes = [level.shape[-2:] for level in table.student.class_maps]
    points = head.prior_generator.grid_priors(sizes, device='cpu')
    strides = torch.cat(
        [torch.full((len(level),), s) for level, s in zip(points, head.strides, strict=True)]
    )
    points = torch.cat(points)
    for image, sample in enumerate(stepped.data['data_samples']):
        expected = torch.full((len(points),), -1)
        highest = torch.full((len(points),), 0.5)
        for number, box in enumerate(sample.gt_instances.bboxes):
            distance = (points - (box[:2] + box[2:]) / 2) / strides[:, None]
            prior = (
                -distance.square().sum(dim=1) / 2
            ).exp()  # the Gaussian starts as a standard one
            inside = ((points > box[:2]) & (points < box[2:])).all(dim=1)
            better = inside & (prior >= highest)
            expected[better], highest[better] = number, prior[better]
        assert table.object_ids.view(3, -1)[image].tolist() == expected.tolist()
    assert len(positives(stepped))


def test_centernet_positives_are_the_peaks_of_its_heatmaps():
    stepped = run('CenterNet')
    table = stepped.table
    (probabilities, target), _ = stepped.loss_inputs[0]
    rows = target.permute(0, 2, 3, 1).reshape(-1, 80)
    chosen = positives(stepped)
    assert (rows[chosen, table.labels[chosen]] == 1).all()
    assert (rows == 1).sum() == len(chosen) == 5
    torch.testing.assert_close(
        table.student_logits(torch.arange(len(table))).sigmoid(),
        probabilities.permute(0, 2, 3, 1).reshape(-1, 80),
    )


def test_centernet_objects_that_share_a_cell_keep_one():
    model = zoo.distiller(*pair('CenterNet'))
    data = zoo.batch(boxes=(2,))
    for sample in data['data_samples']:
        sample.gt_instances.bboxes = torch.tensor([[10.0, 10, 50, 50], [20.0, 20, 40, 40]])
        sample.gt_instances.labels = torch.tensor([3, 5])
    table = take_step(model, data).table
    chosen = table.is_foreground()
    assert chosen.sum() == 2  # one in each image
    assert table.object_ids[chosen].tolist() == [1, 1]  # the regression targets are the later one's
    assert table.labels[chosen].tolist() == [5, 5]


def test_updated_centernet_positives_are_those_of_the_heads_own_loss():
    stepped = run('CenterNet-update')
    table = stepped.table
    (probabilities, _), options = stepped.loss_inputs[0]
    order = stepped.level_major
    expected = {
        (int(order[place]), int(label))
        for place, label in zip(options['pos_inds'], options['pos_labels'], strict=True)
    }
    found = {(int(place), int(table.labels[place])) for place in positives(stepped)}
    assert found <= expected
    assert {place for place, _ in found} == {place for place, _ in expected}
    torch.testing.assert_close(
        table.student_logits(order).sigmoid().clamp(1e-4, 1 - 1e-4), probabilities
    )
    check_objects(stepped)


def test_updated_centernet_objects_are_near_their_positives():
    model = zoo.distiller(*pair('CenterNet-update'))
    data = zoo.batch(boxes=(4, 3), seed=2)
    for sample in data['data_samples']:
        sample.gt_instances.labels.fill_(7)
    stepped = take_step(model, data)
    table = stepped.table
    sizes = [level.shape[-2:] for level in table.student.class_maps]
    points = stepped.head.prior_generator.grid_priors(sizes, device='cpu')
    strides = torch.cat(
        [
            torch.full((len(level),), stride)
            for level, stride in zip(points, stepped.head.strides, strict=True)
        ]
    )
    points = torch.cat(points)
    for place in positives(stepped).tolist():
        image, cell = divmod(place, len(points))
        box = data['data_samples'][image].gt_instances.bboxes[table.object_ids[place]]
        distance = (points[cell] - (box[:2] + box[2:]) / 2).abs().max()
        assert distance <= 1.5 * strides[cell]  # within the 3x3 cells around the centre's cell
    assert len(positives(stepped))
