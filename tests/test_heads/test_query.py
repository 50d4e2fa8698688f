"""Query heads: which queries become pairs, against a matching that is computed here from the papers' costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import asks
import pytest
import torch
import zoo
from asks import tables
from kept_rows import assert_same_at, from_rows
from mmengine.config import Config
from query_models import (
    DETECTORS,
    DETRS,
    LAYERS,
    QUERIES,
    SPARSE,
    batch,
    models,
)
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou

from mmkd.distillers import Distiller
from mmkd.heads import DETRHeadAdapter, SparseRoIHeadAdapter, build_head_adapter
from mmkd.losses.samplers import AllSamples
from mmkd.structures import TEACHER, Holding, Logits, Step, head_source

LOSSES = dict(
    ckd=dict(type='mmkd.CKDLoss'), aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill')
)


def distiller(
    configs: tuple[Config, Config], head: Mapping[str, Any] | None = None, seed: int = 0
) -> Distiller:
    """A distiller with CKD and AEKT on all samples; the teacher's weights are drawn as for training."""
    model = zoo.distiller(*configs, losses=LOSSES, seed=seed, head=head)
    # Left as the modules' constructors drew them, Sparse R-CNN's proposals have negative sizes.
    model.teacher.model.init_weights()
    return model


def run(model: Distiller, data: dict[str, Any]) -> Step:
    """The Step of one training step."""
    steps = zoo.record_steps(model)
    zoo.one_step(model, data, of='loss_ckd')
    return steps[0]


class Outputs:
    """What a detector's head outputs, layer by layer: logits (B, Q, C) and xyxy boxes (B, Q, 4) in pixels."""

    def __init__(self, detector: nn.Module, sizes: Tensor) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.sizes = sizes
        if hasattr(detector, 'roi_head'):
            self.forward: Callable[..., Any] = detector.roi_head._bbox_forward
            detector.roi_head._bbox_forward = self._stage
        else:
            detector.bbox_head.register_forward_hook(self._head)

    def _head(self, module: nn.Module, args: Any, output: Any) -> None:
        for logits, boxes in zip(*output[:2], strict=True):
            pixels = box_convert(boxes.detach(), 'cxcywh', 'xyxy') * self.sizes[:, None]
            self.layers.append((logits.detach(), pixels))

    def _stage(self, *args: Any, **kwargs: Any) -> Any:
        result = self.forward(*args, **kwargs)
        boxes = torch.stack(result['detached_proposals'])
        self.layers.append((result['cls_score'].detach(), boxes))
        return result


def outputs_of(model: nn.Module, data: dict[str, Any]) -> Outputs:
    """Outputs that fill up when the model runs on ``data``."""
    shapes = [sample.img_shape for sample in data['data_samples']]
    return Outputs(model, torch.tensor([[w, h, w, h] for h, w in shapes]).float())


def match(name: str, logits: Tensor, boxes: Tensor, sample: Any) -> dict[int, int]:
    """Object to query with the least total cost 2 or 1 · class + 5 · L1 + 2 · (1 − GIoU) of an image's queries."""
    labels, targets = sample.gt_instances.labels, sample.gt_instances.bboxes
    if name == 'DETR':
        class_cost = -logits.softmax(dim=-1)[:, labels]
    else:
        p = logits.sigmoid()[:, labels]
        class_cost = 2 * (
            -0.25 * (1 - p) ** 2 * (p + 1e-12).log() + 0.75 * p**2 * (1 - p + 1e-12).log()
        )
    height, width = sample.img_shape
    scale = torch.tensor([width, height, width, height])
    form = 'xyxy' if name in SPARSE else 'cxcywh'
    ours, theirs = (box_convert(b / scale, 'xyxy', form) for b in (boxes, targets))
    cost = class_cost + 5 * torch.cdist(ours, theirs, p=1) - 2 * generalized_box_iou(boxes, targets)
    queries, objects = linear_sum_assignment(cost)
    return dict(zip(objects.tolist(), queries.tolist(), strict=True))


def matched_rows(
    name: str, layer: tuple[Tensor, Tensor], data: dict[str, Any], first: int = 0
) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """(image, object) to logits and box of its query, of the queries from ``first`` on."""
    rows = {}
    for image, sample in enumerate(data['data_samples']):
        logits, boxes = (values[image, first:] for values in layer)
        for obj, query in match(name, logits, boxes, sample).items():
            rows[image, obj] = (logits[query], boxes[query])
    return rows


def keys(table: Any) -> list[tuple[int, int]]:
    """(image, object) of every sample."""
    return list(zip(table.image_ids.tolist(), table.object_ids.tolist(), strict=True))


@pytest.mark.parametrize('name', DETECTORS)
def test_a_step_has_one_sample_per_object_and_a_gradient_in_backbone_and_head(name: str) -> None:
    model = distiller(models(name))
    data = batch(name)
    steps = zoo.record_steps(model)
    for loss in ('loss_aekt', 'loss_ckd'):
        losses = zoo.one_step(model, data, of=loss)
        for key, value in losses.items():
            for part in value if isinstance(value, list) else [value]:
                assert torch.isfinite(part).all(), key
        for part in (model.backbone, model.roi_head if name in SPARSE else model.bbox_head):
            gradient = zoo.gradient(part)
            assert torch.isfinite(gradient).all()
            assert gradient.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())

    (table,) = asks.tables(steps[0])
    assert table.samples_per_image == [3, 2]
    assert sorted(keys(table)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    objects = [data['data_samples'][image].gt_instances.labels[i] for image, i in keys(table)]
    assert table.labels.tolist() == torch.stack(objects).tolist()
    assert table.weights.tolist() == [1] * 5
    assert table.is_foreground().all()
    (pairs,) = asks.logit_pairs(steps[0], model.distill_losses['ckd'].sampler)
    assert pairs.activation == ('softmax' if name == 'DETR' else 'sigmoid')
    assert pairs.student.shape == (5, 81 if name == 'DETR' else 80)
    assert pairs.student.requires_grad
    assert not pairs.teacher.requires_grad
    assert not pairs.boxes.requires_grad


@pytest.mark.parametrize('name', DETECTORS)
def test_pairs_are_the_queries_of_least_cost_of_each_network(name: str) -> None:
    model = distiller(models(name))
    if name == 'DDQ':
        make_duplicates(model)
    data = batch(name)
    student, teacher = outputs_of(model.student, data), outputs_of(model.teacher.model, data)
    (table,) = asks.tables(run(model, data))

    if name == 'DDQ':
        keep_distinct(model.bbox_head, student, dense=True)
        keep_distinct(model.teacher.model.bbox_head, teacher)
    else:  # denoising queries come first
        student.layers[-1] = tuple(values[:, -QUERIES:] for values in student.layers[-1])
    ours = matched_rows(name, student.layers[-1], data)
    theirs = matched_rows(name, teacher.layers[-1], data)
    assert len(table) == 5
    for sample, key in enumerate(keys(table)):
        at = torch.tensor([sample])
        torch.testing.assert_close(table.student_logits(at)[0], ours[key][0])
        torch.testing.assert_close(table.boxes(at)[0], ours[key][1])
        torch.testing.assert_close(table.student_boxes(at)[0].detach(), ours[key][1])
        assert table.student_boxes(at).requires_grad
        torch.testing.assert_close(table.teacher_boxes(at)[0], theirs[key][1])
        torch.testing.assert_close(table.teacher_logits(at)[0], theirs[key][0])
        logits = theirs[key][0]
        scores = logits.softmax(-1)[:-1] if name == 'DETR' else logits.sigmoid()
        torch.testing.assert_close(table.teacher_confidence()[sample], scores.max())


def make_duplicates(model: Distiller) -> None:
    """Let DDQ predict boxes so large that they overlap, and take those of an IoU over 0.3 for duplicates."""
    for detector in (model.student, model.teacher.model):
        detector.cache_dict['dqs_cfg']['iou_threshold'] = 0.3
        for branch in detector.bbox_head.reg_branches:
            branch[-1].bias.data[2:] = 1.5


def keep_distinct(head: Any, outputs: Outputs, dense: bool = False) -> None:
    """Push what DDQ's decoder found to be duplicates before the last layer so far away that no object matches it.

    In training denoising queries come first and dense ones last; they are cut off.
    """
    logits, boxes = (values.clone() for values in outputs.layers[-1])
    if dense:
        num_dense = head.cache_dict['num_dense_queries']
        logits, boxes = logits[:, :-num_dense], boxes[:, :-num_dense]
    mask = head.cache_dict['distinct_query_mask'][-1]
    assert not mask.all()
    heads = head.cache_dict['num_heads']
    logits, boxes = logits[:, -mask.shape[-1] :], boxes[:, -mask.shape[-1] :]
    for image in range(len(boxes)):
        boxes[image, ~mask[image * heads][0]] = 1e5 + torch.tensor([0.0, 0.0, 1.0, 1.0])
    outputs.layers[-1] = (logits, boxes)


@pytest.mark.parametrize('name', ['DINO', 'DDQ'])
def test_denoising_queries_are_no_samples(name: str) -> None:
    model = distiller(models(name))
    data = batch(name)
    outputs = outputs_of(model.student, data)
    (table,) = asks.tables(run(model, data))

    logits, _ = outputs.layers[-1]
    dense = model.bbox_head.cache_dict['num_dense_queries'] if name == 'DDQ' else 0
    denoising = logits.shape[1] - QUERIES - dense
    assert denoising > 0
    for sample, (image, _) in enumerate(keys(table)):
        (query,) = (logits[image] == table.student_rows[sample]).all(dim=1).nonzero().tolist()
        assert denoising <= query[0] < denoising + QUERIES


# QueryInst's boxes are Sparse R-CNN's; masks of untrained boxes cannot be pasted into an image.
@pytest.mark.parametrize('name', [*DETRS, 'Sparse R-CNN'])
def test_the_teacher_predicts_as_it_does_alone(name: str) -> None:
    model = distiller(models(name))
    data = batch(name)
    teacher = outputs_of(model.teacher.model, data)
    run(model, data)
    layers = teacher.layers[:]
    teacher.layers.clear()
    with torch.no_grad():
        model.teacher.model.predict(data['inputs'], data['data_samples'])
    assert teacher.layers  # of DETR and its like the last layer only
    for ours, alone in zip(layers[::-1], teacher.layers[::-1], strict=False):
        torch.testing.assert_close(ours, alone)


@pytest.mark.parametrize('name', ['DETR', 'two-stage Deformable DETR', 'DINO', 'Sparse R-CNN'])
def test_all_layers_give_a_table_each_of_their_own_matches(name: str) -> None:
    model = distiller(models(name, teacher_layers=LAYERS), head=dict(layers='all'))
    data = batch(name)
    student, teacher = outputs_of(model.student, data), outputs_of(model.teacher.model, data)
    tables = asks.tables(run(model, data))

    # Two-stage detectors match the encoder's proposals too: these are no decoder layer.
    assert len(tables) == len(student.layers) == len(teacher.layers) == LAYERS
    for table, mine, its in zip(tables, student.layers, teacher.layers, strict=True):
        ours = matched_rows(name, mine, data, first=mine[0].shape[1] - QUERIES)
        theirs = matched_rows(name, its, data)
        rows = torch.stack([ours[key][0] for key in keys(table)])
        targets = torch.stack([theirs[key][0] for key in keys(table)])
        torch.testing.assert_close(table.student_rows, rows)
        torch.testing.assert_close(table.teacher_rows, targets)
    assert not torch.equal(tables[0].teacher_rows, tables[1].teacher_rows)


@pytest.mark.parametrize('name', DETECTORS)
def test_an_image_without_objects_has_no_samples(name: str) -> None:
    model = distiller(models(name))
    step = run(model, batch(name, boxes=(0, 2)))
    assert asks.tables(step)[0].samples_per_image == [0, 2]
    assert keys(asks.tables(step)[0])[0][0] == 1

    steps = zoo.record_steps(model)
    losses = zoo.one_step(model, batch(name, boxes=(0,)), of='loss_ckd')
    assert len(asks.tables(steps[0])[0]) == 0
    assert losses['loss_ckd'].item() == 0
    # Attached to the graph: DDP waits for a gradient, be it 0, of every parameter the loss uses.
    assert model.backbone.layer4[0].conv1.weight.grad is not None
    assert zoo.gradient(model.backbone).abs().sum() == 0


@pytest.mark.parametrize('name', ['DETR', 'Sparse R-CNN'])
def test_an_object_that_one_network_has_no_query_for_has_no_pair(name: str) -> None:
    student, teacher = models(name)
    if name in SPARSE:
        teacher.rpn_head.num_proposals = 2
    else:
        teacher.num_queries = 2
    model = distiller((student, teacher))
    data = batch(name, boxes=(4, 1))
    outputs = outputs_of(model.teacher.model, data)
    (table,) = asks.tables(run(model, data))
    assert table.samples_per_image == [2, 1]
    theirs = matched_rows(name, outputs.layers[-1], data)
    assert sorted(keys(table)) == sorted(theirs)
    for row, key in zip(table.teacher_rows, keys(table), strict=True):
        torch.testing.assert_close(row, theirs[key][0])


def test_a_teacher_may_be_another_detector_with_a_head_of_the_family() -> None:
    student, _ = models('Deformable DETR')
    _, teacher = models('DINO')
    model = distiller((student, teacher))
    data = batch()
    outputs = outputs_of(model.teacher.model, data)
    (table,) = asks.tables(run(model, data))
    theirs = matched_rows('DINO', outputs.layers[-1], data)
    for row, key in zip(table.teacher_rows, keys(table), strict=True):
        torch.testing.assert_close(row, theirs[key][0])
    assert zoo.gradient(model.backbone).abs().sum() > 0


def test_all_layers_of_networks_with_other_numbers_of_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match=r'decoder layers: the student has 2, the teacher 3'):
        distiller(models('DETR'), head=dict(layers='all'))
    with pytest.raises(ValueError, match=r'decoder layers: the student has 2, the teacher 3'):
        distiller(models('Sparse R-CNN'), head=dict(layers='all'))


def test_options_are_checked() -> None:
    with pytest.raises(TypeError, match=r'DETRHeadAdapter.* no option layer; .*are: layers'):
        distiller(models('DETR'), head=dict(layer='all'))
    with pytest.raises(ValueError, match=r"model\.head\.layers: 'first'"):
        distiller(models('DETR'), head=dict(layers='first'))
    retinanets = zoo.pair('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    with pytest.raises(TypeError, match=r'RetinaHead, has no option layers; .*are: none'):
        distiller(retinanets, head=dict(layers='all'))


def break_classes(student: Config, teacher: Config) -> None:
    teacher.bbox_head.num_classes = 7


def break_activation(student: Config, teacher: Config) -> None:
    teacher.bbox_head.loss_cls = dict(type='FocalLoss', use_sigmoid=True)


def break_padding(student: Config, teacher: Config) -> None:
    teacher.data_preprocessor.pad_size_divisor = 32


def break_assigner(student: Config, teacher: Config) -> None:
    teacher.train_cfg = None


@pytest.mark.parametrize(
    ('break_pair', 'message'),
    [
        (break_classes, r'number of classes: the student has 80, the teacher 7: take a teacher'),
        (break_activation, r'activation: the student has softmax, the teacher sigmoid: use'),
        (break_padding, r"data_preprocessor has 1, the teacher's 32: make the student's"),
        (break_assigner, r"the teacher's bbox_head \(DETRHead\) has no assigner.*train_cfg"),
    ],
)
def test_a_pair_that_cannot_be_aligned_is_an_error(
    break_pair: Callable[[Config, Config], None], message: str
) -> None:
    configs = models('DETR')
    break_pair(*configs)
    with pytest.raises(ValueError, match=message):
        distiller(configs)


def test_sparse_teachers_are_checked() -> None:
    student, teacher = models('Sparse R-CNN')
    few = copy.deepcopy(teacher)
    for head in few.roi_head.bbox_head:
        head.num_classes = 7
    with pytest.raises(ValueError, match='number of classes: the student has 80, the teacher 7'):
        distiller((student, few))
    teacher.train_cfg = None
    with pytest.raises(ValueError, match=r'roi_head \(SparseRoIHead\) has no assigner'):
        distiller((student, teacher))


def test_a_detector_of_words_is_refused() -> None:
    model = distiller(models('DINO'))
    model.teacher.model.language_model = nn.Identity()
    with pytest.raises(ValueError, match=r'the teacher \(DINO\) classifies by the words'):
        build_head_adapter(model.student, model.teacher.model)


def test_an_unknown_order_of_assignments_is_an_error() -> None:
    model = distiller(models('DETR'))
    step = run(model, batch())
    step.records['assignments'].append(step.records['assignments'][0])
    with pytest.raises(RuntimeError, match='DETRHead called its assigner 5 times for 2 images'):
        model._heads['teacher'].tables(step)


def test_heads_get_their_familys_adapter() -> None:
    assert type(distiller(models('DDQ'))._heads['teacher']) is DETRHeadAdapter
    assert type(distiller(models('QueryInst'))._heads['teacher']) is SparseRoIHeadAdapter
    assert distiller(models('DETR'))._heads['teacher'].num_logits == 81
    assert distiller(models('Sparse R-CNN'))._heads['teacher'].num_logits == 80


@pytest.mark.parametrize('layers', ['last', 'all'])
@pytest.mark.parametrize('name', ['DETR', 'DINO', 'DDQ'])
def test_kept_queries_are_matched_as_those_of_the_live_teacher(name: str, layers: str) -> None:
    model = distiller(models(name, teacher_layers=LAYERS), head=dict(layers=layers))
    step = run(model, batch(name))
    adapter = step.sources.get(head_source(TEACHER))
    holding = adapter.to_store(Logits(samples=AllSamples()))
    assert holding == Holding(boxes=True, layers=layers)
    kept = from_rows(model, step, holding)
    assert_same_at(step, kept, 9)
    for ours, theirs in zip(tables(step), tables(kept), strict=True):
        assert torch.equal(ours.object_ids, theirs.object_ids)


def test_sparse_rcnn_is_not_stored() -> None:
    model = distiller(models('Sparse R-CNN'))
    with pytest.raises(ValueError, match='no store holds'):
        model.sources.get(head_source(TEACHER)).to_store(Logits(samples=AllSamples()))
