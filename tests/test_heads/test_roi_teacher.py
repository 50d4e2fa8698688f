"""A two-stage teacher scores the boxes that students of other heads predict."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asks
import dense_runs
import pytest
import torch
import zoo
from mmengine.config import Config
from tiny import fresh_hub
from torch import Tensor, nn

from mmkd.distillers import Distiller
from mmkd.heads import RoITeacherAdapter, roi_logits
from mmkd.heads.roi_teacher import ScoredBoxes

CLASSES = 6
SIZE = 128
LOSSES = dict(
    ckd=dict(type='mmkd.CKDLoss'),
    aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill'),
    positives=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.Positives')),
)
"""The first two with the samples that they choose on their own."""
SIGMOID = LOSSES | dict(qfl_kd=dict(type='mmkd.QFLKDLoss'))
SOFTMAX = LOSSES | dict(kd=dict(type='mmkd.KDLoss'))


@dataclass(frozen=True)
class Student:
    """A student's model, the losses to try on it, and the options of its adapter."""

    model: Any
    losses: Mapping[str, Any]
    size: int = SIZE
    head: Mapping[str, Any] | None = None


def dense(name: str) -> Any:
    student, _ = dense_runs.pair(name)
    student.bbox_head.num_classes = CLASSES
    return student


def deformable_detr() -> Any:
    student, _ = zoo.pair(
        'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        bbox_head__num_classes=CLASSES,
        bbox_head__embed_dims=zoo.WIDTH,
        encoder__num_layers=1,
        decoder__num_layers=2,
    )
    return student


def sparse_rcnn() -> Any:
    student, _ = zoo.pair('mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py')
    student.rpn_head.proposal_feature_channel = zoo.WIDTH
    student.roi_head.update(
        proposal_feature_channel=zoo.WIDTH, num_stages=1, stage_loss_weights=[1]
    )
    student.roi_head.bbox_head = student.roi_head.bbox_head[:1]
    student.roi_head.bbox_head[0].num_classes = CLASSES
    student.train_cfg.rcnn = student.train_cfg.rcnn[:1]
    return student


STUDENTS = {
    'RetinaNet': lambda: Student(dense('RetinaNet'), SIGMOID),
    'FCOS': lambda: Student(dense('FCOS'), SIGMOID),
    'YOLOX': lambda: Student(dense('YOLOX'), SIGMOID),
    'RTMDet': lambda: Student(dense('RTMDet'), SIGMOID),
    'CenterNet': lambda: Student(dense('CenterNet'), SIGMOID),
    'SSD': lambda: Student(dense('SSD'), SOFTMAX, size=300),
    'Deformable DETR': lambda: Student(deformable_detr(), SIGMOID, head=dict(layers='all')),
    'Sparse R-CNN': lambda: Student(sparse_rcnn(), SIGMOID),
}
every_student = pytest.mark.parametrize('name', STUDENTS)


def faster_rcnn(classes: int = CLASSES, **overrides: Any) -> Config:
    _, teacher = zoo.pair(
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        roi_head__bbox_head__num_classes=classes,
        **overrides,
    )
    return teacher


def cascade_rcnn() -> Config:
    _, teacher = zoo.pair('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py')
    for head in teacher.roi_head.bbox_head:
        head.num_classes = CLASSES
    return teacher


def distiller(student: Student, teacher: Any, **options: Any) -> Distiller:
    """Student and teacher, whose box heads have logits of some size."""
    model = zoo.distiller(
        copy.deepcopy(student.model),
        teacher,
        losses=options.pop('losses', student.losses),
        head=options.pop('head', student.head),
    )
    noise = torch.Generator().manual_seed(3)
    for name, parameter in model.teacher.model.roi_head.named_parameters():
        if 'fc_cls' in name:
            parameter.data = torch.randn(parameter.shape, generator=noise)
    return model


@dataclass
class Run:
    """One training step."""

    model: Distiller
    data: dict[str, Any]
    losses: dict[str, Any]
    tables: list[ScoredBoxes]
    gradients: dict[str, Tensor]

    def direct(self, rois: Tensor) -> Tensor:
        """The teacher's own logits at boxes."""
        teacher = self.model.teacher.model
        with torch.no_grad():
            return roi_logits(teacher, self.model.teacher.features(**self.data), rois)


@functools.cache
def run(name: str) -> Run:
    fresh_hub()
    student = STUDENTS[name]()
    model = distiller(student, faster_rcnn())
    if name == 'CenterNet':  # at whose positives no box has its sides in order yet
        noise = torch.Generator().manual_seed(0)
        sizes = model.student.bbox_head.wh_head[-1]
        sizes.weight.data = torch.randn(sizes.weight.shape, generator=noise)
    data = zoo.batch(num_images=3, size=student.size, num_classes=CLASSES, boxes=(3, 0, 2))
    data['data_samples'][0].set_metainfo(dict(img_shape=(student.size - 8, student.size - 20)))
    steps = zoo.record_steps(model)
    with zoo.mmdet_scope():
        losses = model(**copy.deepcopy(data), mode='loss')
    gradients = {}
    for loss in student.losses:
        model.zero_grad()
        losses[f'loss_{loss}'].backward(retain_graph=True)
        gradients[loss] = zoo.gradient(model.student.backbone)
    return Run(model, data, losses, asks.tables(steps[0]), gradients)


@every_student
def test_every_loss_reaches_the_students_backbone_out_of_the_box(name: str) -> None:
    result = run(name)
    assert isinstance(result.model._heads['teacher'], RoITeacherAdapter)
    for loss, gradient in result.gradients.items():
        assert result.losses[f'loss_{loss}'] > 0, loss
        assert gradient.isfinite().all(), loss
        assert gradient.any(), loss
    assert all(parameter.grad is None for parameter in result.model.teacher.model.parameters())


@every_student
def test_the_teacher_scores_the_boxes_that_the_student_predicts(name: str) -> None:
    result = run(name)
    assert len(result.tables) == (2 if name == 'Deformable DETR' else 1)
    for table in result.tables:
        every = torch.arange(len(table))
        boxes = table.table.student_boxes(table.places).detach()
        sizes = [sample.metainfo['img_shape'] for sample in result.data['data_samples']]
        for place, (image, box) in enumerate(zip(table.image_ids.tolist(), boxes, strict=True)):
            height, width = sizes[image]
            box[0::2] = box[0::2].clamp(0, width)
            box[1::2] = box[1::2].clamp(0, height)
            assert table.rois[place, 0] == image
        torch.testing.assert_close(table.boxes(every), boxes)
        own = result.direct(table.rois).double().softmax(dim=1)
        rows = table.teacher_logits(every)
        if table.activation == 'sigmoid':
            foreground = own[:, :CLASSES]
            expected = (foreground / (1 - foreground)).log()
        else:
            expected = result.direct(table.rois).double()
        torch.testing.assert_close(rows.double(), expected, rtol=1e-4, atol=1e-4)
        confidence = own[:, :CLASSES].amax(dim=1).float()
        torch.testing.assert_close(table.teacher_confidence(), confidence, rtol=1e-4, atol=1e-5)
        assert own[:, :CLASSES].amax(dim=1).std() > 0.001  # boxes differ in what the teacher says


def boxes_with_area(result: Run, table: ScoredBoxes) -> set[int]:
    """Which of all of the student's samples have a box of which there is something within the image."""
    own = table.table
    sizes = torch.tensor([one.metainfo['img_shape'] for one in result.data['data_samples']]).flip(1)
    corner, far = own.student_boxes(torch.arange(len(own))).detach().chunk(2, dim=1)
    inside = torch.minimum(far, sizes[own.image_ids].float()) - corner.clamp(min=0)
    return set((inside > 0).all(dim=1).nonzero().flatten().tolist())


@every_student
def test_samples_are_the_positives_and_those_that_the_student_is_confident_of(name: str) -> None:
    result = run(name)
    for table in result.tables:
        own = table.table
        usable = boxes_with_area(result, table)
        positive = own.is_foreground().nonzero().flatten().tolist()
        assert positive
        assert set(positive) & usable <= set(table.places.tolist()) <= usable
        assert table.places.tolist() == sorted(set(table.places.tolist()))
        confidence = own.student_confidence(torch.arange(len(own)))
        start = 0
        for image, count in enumerate(own.samples_per_image):
            chosen = table.places[table.image_ids == image].tolist()
            assert len(chosen) == table.samples_per_image[image]
            if count > 256:
                least = confidence[start : start + count].sort(descending=True).values[255]
                better = (confidence[start : start + count] > least).nonzero().flatten() + start
                assert set(better.tolist()) & usable <= set(chosen)
                others = [place for place in chosen if place not in positive]
                assert (confidence[others] >= least).all()  # some scores are equal
                assert len(others) <= 256
            start += count
        assert torch.equal(table.labels, own.labels[table.places])
        assert torch.equal(table.object_ids, own.object_ids[table.places])
        assert torch.equal(table.weights, own.weights[table.places])


@pytest.mark.parametrize('name', ['RTMDet', 'CenterNet', 'SSD'])
def test_samples_whose_boxes_have_no_area_are_left_out(name: str) -> None:
    """RTMDet and CenterNet start with boxes in the wrong order, SSD with some outside of a smaller image."""
    result = run(name)
    (table,) = result.tables
    usable = boxes_with_area(result, table)
    assert 0 < len(usable) < len(table.table)
    assert set(table.places.tolist()) <= usable
    assert len(table) == len(table.labels) == sum(table.samples_per_image)
    assert torch.equal(table.image_ids, table.table.image_ids[table.places])


def test_a_student_none_of_whose_boxes_has_an_area_learns_nothing_of_the_teacher() -> None:
    model = distiller(STUDENTS['CenterNet'](), faster_rcnn())
    nn.init.constant_(model.student.bbox_head.wh_head[-1].bias, -9.0)
    losses = zoo.one_step(model, zoo.batch(num_classes=CLASSES))
    assert all(losses[f'loss_{name}'] == 0 for name in SIGMOID)
    assert losses['loss_wh'] > 0


def test_only_the_boxes_asked_for_are_scored() -> None:
    student = STUDENTS['RetinaNet']()
    losses = dict(ckd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.Positives')))
    model = distiller(student, faster_rcnn(), losses=losses)
    scored: list[int] = []
    rpn: list[Any] = []
    teacher = model.teacher.model
    teacher.roi_head.bbox_head.register_forward_hook(
        lambda module, args, output: scored.append(len(args[0]))
    )
    teacher.rpn_head.register_forward_hook(lambda *seen: rpn.append(seen))
    steps = zoo.record_steps(model)
    zoo.one_step(model, zoo.batch(num_classes=CLASSES))
    table = asks.tables(steps[0])[0]
    assert scored == [int(table.is_foreground().sum())]
    assert not rpn
    empty = zoo.one_step(model, zoo.batch(num_classes=CLASSES, boxes=(0,)))
    assert empty['loss_ckd'] == 0
    assert len(scored) == 1


def test_the_number_of_candidates_is_an_option() -> None:
    student = STUDENTS['RetinaNet']()
    model = distiller(student, faster_rcnn(), head=dict(candidates=5))
    steps = zoo.record_steps(model)
    zoo.one_step(model, zoo.batch(num_classes=CLASSES, boxes=(0,)))
    assert asks.tables(steps[0])[0].samples_per_image == [5, 5]
    for wrong in (0, 2.5, '5'):
        with pytest.raises(ValueError, match=rf'model\.head\.candidates: {wrong!r}'):
            distiller(student, faster_rcnn(), head=dict(candidates=wrong))
    with pytest.raises(TypeError, match=r'no option layers; its options are: candidates'):
        distiller(student, faster_rcnn(), head=dict(layers='all'))


def test_a_cascade_scores_with_the_mean_of_its_stages() -> None:
    student = STUDENTS['FCOS']()
    model = distiller(student, cascade_rcnn())
    data = zoo.batch(num_classes=CLASSES)
    steps = zoo.record_steps(model)
    losses = zoo.one_step(model, data, of='loss_ckd')
    table = asks.tables(steps[0])[0]
    rows = table.teacher_logits(torch.arange(len(table)))
    with torch.no_grad():
        direct = roi_logits(model.teacher.model, model.teacher.features(**data), table.rois)
    expected = direct.softmax(dim=1)[:, :CLASSES]
    torch.testing.assert_close(rows.sigmoid(), expected, rtol=1e-4, atol=1e-5)
    assert losses['loss_ckd'] > 0


def test_other_classes_are_matched_by_name() -> None:
    names = tuple('abcdef')
    theirs = ('x', *names[::-1], 'y')
    fresh_hub(dataset_meta=dict(classes=names))
    student = STUDENTS['FCOS']()
    zoo.register_all_modules(init_default_scope=False)
    with zoo.mmdet_scope():
        model = Distiller(
            copy.deepcopy(student.model),
            dict(
                config=dict(model=faster_rcnn(classes=8), default_scope='mmdet'),
                checkpoint='random_init',
                class_names=theirs,
            ),
            dict(ckd=LOSSES['ckd']),
        )
        model.init_weights()
    for parameter in model.teacher.model.roi_head.bbox_head.fc_cls.parameters():
        parameter.data = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(parameter.dim())
        )
    steps = zoo.record_steps(model.train())
    data = zoo.batch(num_classes=CLASSES)
    zoo.one_step(model, data)
    fresh_hub()
    table = asks.tables(steps[0])[0]
    with torch.no_grad():
        direct = roi_logits(model.teacher.model, model.teacher.features(**data), table.rois)
    probabilities = direct.softmax(dim=1)[:, [theirs.index(name) for name in names]]
    rows = table.teacher_logits(torch.arange(len(table)))
    torch.testing.assert_close(rows.sigmoid(), probabilities, rtol=1e-4, atol=1e-5)


def test_a_serial_layer_goes_into_the_students_own_head() -> None:
    aekt = dict(type='mmkd.AEKTLoss', serial='distill_then_task')
    model = distiller(STUDENTS['RetinaNet'](), faster_rcnn(), losses=dict(aekt=aekt))
    with torch.no_grad():
        for parameter in model.distill['aekt'].parameters():
            parameter.add_(0.3)
    steps = zoo.record_steps(model)
    losses = zoo.one_step(model, zoo.batch(num_classes=CLASSES), of='loss_aekt')
    assert losses['loss_aekt'] > 0
    assert zoo.gradient(model.student.backbone).any()
    task = asks.tables(steps[0])[0].student_logits(torch.arange(8))
    (pairs,) = asks.logit_pairs(steps[0], lambda table: torch.arange(8))
    layer = model.distill['aekt'].task_layer
    torch.testing.assert_close(layer(pairs.student), task, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(pairs.student, task, atol=0.1)


def test_a_copy_reads_its_own_student_and_teacher() -> None:
    model = run('RetinaNet').model
    twin = copy.deepcopy(model)
    assert twin._heads['teacher'].scores.roi_head is twin.teacher.model.roi_head
    assert twin._heads['teacher'].own.student_head is twin.student.bbox_head
    assert twin.student.bbox_head is not model.student.bbox_head


def test_several_two_stage_teachers_are_told_apart_by_name() -> None:
    student = STUDENTS['RetinaNet']()
    alone = distiller(student, faster_rcnn(), losses=dict(kd=LOSSES['ckd']))
    teachers = dict(faster=faster_rcnn(), cascade=cascade_rcnn())
    with zoo.mmdet_scope():
        model = Distiller(
            student=copy.deepcopy(student.model),
            teachers={
                name: dict(
                    config=dict(model=teacher, default_scope='mmdet'), checkpoint='random_init'
                )
                for name, teacher in teachers.items()
            },
            losses={f'{name}_kd': LOSSES['ckd'] | dict(teacher=name) for name in teachers},
        )
    model.student.load_state_dict(alone.student.state_dict(), strict=False)
    model.teachers['faster'].model.load_state_dict(alone.teacher.model.state_dict())
    data = zoo.batch(num_classes=CLASSES)
    values = zoo.one_step(model.train(), data)
    assert torch.equal(values['loss_faster_kd'], zoo.one_step(alone, data)['loss_kd'])
    assert not torch.equal(values['loss_faster_kd'], values['loss_cascade_kd'])


def test_what_cannot_work_says_why() -> None:
    student = STUDENTS['RetinaNet']()
    with pytest.raises(
        ValueError, match=r'scores the boxes of the RetinaHead and has no class maps'
    ):
        distiller(student, faster_rcnn(), losses=dict(x=dict(type='mmkd.CWDLoss', at='class_maps')))
    with pytest.raises(ValueError, match=r'scores the boxes of the RetinaHead and predicts none'):
        distiller(student, faster_rcnn(), losses=dict(box=dict(type='mmkd.BoxL1Loss')))
    sigmoid = dict(type='CrossEntropyCustomLoss', use_sigmoid=True, num_classes=CLASSES)
    teacher = faster_rcnn(roi_head__bbox_head__loss_cls=sigmoid)
    with pytest.raises(ValueError, match=r'activation: the student has softmax, .* sigmoid'):
        distiller(STUDENTS['SSD'](), teacher)
    with pytest.raises(ValueError, match=r'number of classes: the student has 6, the teacher 8'):
        distiller(student, faster_rcnn(classes=8))
    two_stage = Student(faster_rcnn(), dict(ckd=LOSSES['ckd']))
    with pytest.raises(
        ValueError, match=r'StandardRoIHead, the teacher .* or a two-stage detector'
    ):
        zoo.distiller(two_stage.model, student.model, losses=two_stage.losses)
