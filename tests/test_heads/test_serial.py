"""AEKT's layer within the student's head, on MMDetection's and MMPretrain's own heads: what each task sees."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import asks
import dense_runs
import numpy as np
import pytest
import test_classifier as classifiers
import test_query as queries
import test_roi as rois
import torch
import zoo
from mmdet.registry import MODELS as DETECTORS
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmkd.distillers import Distiller
from mmkd.heads import plain_weights
from mmkd.losses import AllSamples
from mmkd.losses.serial import SerialLayer
from mmkd.structures import ClassMaps, LogitPairs, Logits

DENSE = (
    'RetinaNet',
    'SSD',
    'ATSS',
    'GFL',
    'FCOS',
    'RepPoints',
    'VFNet',
    'YOLOX',
    'RTMDet',
    'CenterNet',
)
ROI = ('faster_ohem', 'cascade', 'double_head')
QUERY = ('DETR', 'Deformable DETR', 'two-stage Deformable DETR', 'DINO', 'DDQ', 'Sparse R-CNN')
CLASSIFIERS = ('linear', 'stacked', 'vit_hidden', 'deit')
ALL = tuple(
    f'{family}: {name}'
    for family, names in (
        ('dense', DENSE),
        ('roi', ROI),
        ('query', QUERY),
        ('classifier', CLASSIFIERS),
    )
    for name in names
)
EXTRAS = {'distill.aekt.task_layer.offset', 'distill.aekt.task_layer.bias'}


@dataclass
class Case:
    """A student, its teacher and a batch."""

    student: Any
    teacher: Any
    data: dict[str, Any]
    scope: str = 'mmdet'

    def distil(self, serial: str) -> Distiller:
        """A new distiller, always with the same random weights."""
        losses = dict(aekt=dict(type='mmkd.AEKTLoss', serial=serial, temperature=1.0))
        if self.scope == 'mmpretrain':
            return classifiers.distiller(self.student, self.teacher, losses)
        model = zoo.distiller(copy.deepcopy(self.student), copy.deepcopy(self.teacher), losses)
        if hasattr(getattr(model.teacher.model, 'neck', None), 'l2_norm'):  # SSD's is unset memory
            nn.init.constant_(model.teacher.model.neck.l2_norm.weight, 20)
        return model

    def plain(self) -> nn.Module:
        """A new plain student."""
        student = copy.deepcopy(self.student)
        if self.scope == 'mmpretrain':
            student['data_preprocessor'] = dict(classifiers.STUDENT_PIXELS)
        with DefaultScope.overwrite_default_scope(self.scope):
            return MODELS.build(student)

    def step(self, model: Distiller) -> tuple[dict[str, Any], list[LogitPairs]]:
        """Losses and pairs of all samples of a training step, with the same random numbers every time."""
        MessageHub.get_current_instance().update_info('epoch', 0)
        steps = zoo.record_steps(model)
        data = copy.deepcopy(self.data)
        if self.scope == 'mmpretrain':
            data = model.data_preprocessor(data, training=True)
        torch.manual_seed(3)
        with DefaultScope.overwrite_default_scope(self.scope):
            losses = model(**data, mode='loss')
        return losses, asks.logit_pairs(steps[-1], AllSamples())

    def predict(self, model: Any) -> list[Tensor]:
        """All numbers that a student predicts."""
        data = copy.deepcopy(self.data)
        if self.scope == 'mmpretrain':
            data = model.data_preprocessor(data)
        elif type(getattr(model, 'bbox_head', None)).__name__ == 'SSDHead':
            model.bbox_head.loss_cls = None  # MMDetection 3.5.1 asks for one, which SSD has not
        with DefaultScope.overwrite_default_scope(self.scope), torch.no_grad():
            samples = model.eval()(**data, mode='predict')
        if self.scope == 'mmpretrain':
            return [sample.pred_score for sample in samples]
        return [
            getattr(sample.pred_instances, name)
            for sample in samples
            for name in ('scores', 'labels', 'bboxes')
        ]


def case(name: str) -> Case:
    family, _, name = name.partition(': ')
    if family == 'dense':
        student, teacher = dense_runs.pair(name)
        size = dense_runs.CASES[name].size
        data = zoo.batch(size=size)
        for sample in data['data_samples']:  # for CenterNet
            sample.set_metainfo(dict(border=np.array([0, size, 0, size])))
        student.merge_from_dict({'test_cfg.score_thr': 0.0})
        return Case(student, teacher, data)
    if family == 'roi':
        student, teacher = rois.configs(name)
        student.merge_from_dict({'test_cfg.rcnn.score_thr': 0.0})
        return Case(student, teacher, rois.full_batch())
    if family == 'query':
        return Case(*queries.models(name), zoo.batch(masks=True))
    student, teacher = classifiers.STUDENTS[name], classifiers.TEACHERS['linear']
    return Case(student, teacher, classifiers.raw_batch(), 'mmpretrain')


def scramble(layer: SerialLayer) -> None:
    """Weights as after some training."""
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=noise))


@pytest.mark.parametrize('name', ALL)
def test_the_task_has_what_is_behind_the_layer_and_the_losses_what_is_before_it(name: str) -> None:
    this = case(name)
    model = this.distil('distill_then_task')
    layer = model.distill['aekt'].task_layer
    scramble(layer)
    folded = this.plain()
    weights = plain_weights(folded, model.state_dict())
    assert weights.keys() == model.state_dict().keys() - EXTRAS
    folded.load_state_dict(weights, strict=True)
    reference = this.distil('none')
    reference.load_state_dict(weights, strict=True)

    losses, pairs = this.step(model)
    expected, task_pairs = this.step(reference)

    # The task's own loss is, bit for bit, that of the plain student with the folded weights,
    for key in expected.keys() - {'loss_aekt'}:
        assert repr(losses[key]) == repr(expected[key]), key
        assert torch.equal(flat(losses[key]), flat(expected[key])), key
    # whose logits of the same samples are the layer's of what the losses see,
    assert len(pairs) == len(task_pairs) > 0
    with torch.no_grad():
        for ours, theirs in zip(pairs, task_pairs, strict=True):
            distilled, task = ours.student[:2000], theirs.student[:2000]
            assert len(distilled) > 0
            torch.testing.assert_close(layer(distilled), task, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(distilled, task, rtol=1e-2, atol=1e-2)
    # which are what the distillation's gradient goes to, past the layer.
    assert losses['loss_aekt'].isfinite()
    losses['loss_aekt'].backward(retain_graph=True)
    assert zoo.gradient(model.student.backbone).isfinite().all()
    assert zoo.gradient(model.student.backbone).any()
    leaked = layer.offset.grad.abs().max()
    model.parse_losses({k: v for k, v in losses.items() if k != 'loss_aekt'})[0].backward()
    assert layer.offset.grad.isfinite().all()
    assert layer.offset.grad.abs().max() > 1e3 * leaked  # rounding
    assert layer.bias.grad.any()
    # Training's validation computes the numbers of the exported student.
    folded.load_state_dict(plain_weights(folded, model.state_dict()), strict=True)
    predictions = this.predict(model)
    assert sum(len(numbers) for numbers in predictions) > 0
    for ours, theirs in zip(predictions, this.predict(folded), strict=True):
        assert torch.equal(ours, theirs)


def flat(value: Tensor | list[Tensor]) -> Tensor:
    return torch.stack(list(value)) if isinstance(value, list) else value.flatten()


def test_the_layer_starts_as_the_identity() -> None:
    this = case('dense: RetinaNet')
    model, reference = this.distil('distill_then_task'), this.distil('none')

    losses, _ = this.step(model)
    expected, _ = this.step(reference)
    assert all(torch.equal(flat(losses[key]), flat(expected[key])) for key in expected)
    model.parse_losses(losses)[0].backward()
    reference.parse_losses(expected)[0].backward()
    for part in ('backbone', 'neck', 'bbox_head'):
        ours, theirs = (zoo.gradient(getattr(each, part)) for each in (model, reference))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('weight', [0.0, dict(type='LinearWarmup', begin=5, end=6)])
def test_off_means_off(weight: Any) -> None:
    """While the loss has no weight the layer stays the identity and the student trains as without it."""
    this = case('classifier: linear')
    losses = dict(aekt=dict(type='mmkd.AEKTLoss', serial='distill_then_task', weight=weight))
    model = classifiers.distiller(this.student, this.teacher, losses)
    reference = classifiers.distiller(this.student, this.teacher, {})
    for each in (model, reference):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(3):
            data = each.data_preprocessor(copy.deepcopy(this.data), training=True)
            optimizer.zero_grad()
            each.parse_losses(each.loss(**data))[0].backward()
            optimizer.step()

    state = model.state_dict()
    assert not any(state[key].any() for key in EXTRAS)
    expected = reference.state_dict()
    assert state.keys() - expected.keys() == EXTRAS
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_other_losses_see_the_distilled_logits_too() -> None:
    this = case('classifier: linear')
    losses = dict(
        aekt=dict(type='mmkd.AEKTLoss', serial='distill_then_task'), kd=dict(type='mmkd.KDLoss')
    )
    model = classifiers.distiller(this.student, this.teacher, losses)
    values, _ = this.step(model)
    scramble(model.distill['aekt'].task_layer)
    scrambled, _ = this.step(model)

    torch.testing.assert_close(values['loss_kd'], scrambled['loss_kd'], rtol=1e-4, atol=0)
    assert not torch.equal(values['loss'], scrambled['loss'])


def test_class_maps_are_undone_and_logits_of_the_teachers_head_left_alone() -> None:
    """CrossKD's logits are the teacher's head's, in which the student's layer has no part."""
    losses = dict(
        aekt=dict(type='mmkd.AEKTLoss', serial='distill_then_task'),
        cwd=dict(type='mmkd.CWDLoss', at='class_maps'),
        cross=dict(type='mmkd.CrossKDLoss', boxes='none'),
    )
    model = zoo.distiller(*dense_runs.pair('RetinaNet'), losses=losses)
    steps = zoo.record_steps(model)
    data = zoo.batch(num_classes=model.student.bbox_head.num_classes)
    zoo.one_step(model, data)
    scramble(model.distill['aekt'].task_layer)
    zoo.one_step(model, data)

    crossed = Logits(crossed=3, samples=AllSamples())
    before, after = (step.ask(ClassMaps()) + step.ask(crossed) for step in steps)
    for ours, scrambled in zip(before, after, strict=True):
        torch.testing.assert_close(ours.student, scrambled.student, rtol=1e-4, atol=1e-5)


def test_a_copy_of_the_distiller_runs_with_its_own_layer() -> None:
    """MMEngine's EMAHook copies the whole model."""
    this = case('classifier: linear')
    model = this.distil('distill_then_task')
    twin = copy.deepcopy(model)
    before = this.predict(model)

    scramble(twin.distill['aekt'].task_layer)
    assert all(torch.equal(a, b) for a, b in zip(this.predict(model), before, strict=True))
    assert not torch.equal(this.predict(twin)[0], before[0])
    scramble(model.distill['aekt'].task_layer)
    assert torch.equal(this.predict(twin)[0], this.predict(model)[0])


def test_mixed_precision_folds_in_full_precision() -> None:
    this = case('classifier: linear')
    model = this.distil('distill_then_task')
    scramble(model.distill['aekt'].task_layer)
    folded = this.plain()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses, _ = this.step(model)
        folded.load_state_dict(plain_weights(folded, model.state_dict()), strict=True)
        ours, theirs = this.predict(model), this.predict(folded)

    assert losses['loss_aekt'].dtype == torch.float32
    assert losses['loss_aekt'].isfinite()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('dense: TOOD', 'TOODHead has no layer that is known to output its class logits'),
        ('dense: YOLOF', 'YOLOFHead has no layer that is known to output its class logits'),
        ('classifier: arcface', 'ArcFaceClsHead has no layer that is known to output'),
        ('classifier: conformer', 'ConformerHead has no layer that is known to output'),
    ],
)
def test_a_head_that_cannot_says_so_before_training(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        case(name).distil('distill_then_task')
    assert "AEKTLoss.serial='distill_then_task'" in str(error.value)
    assert "serial='task_then_distill'" in str(error.value)


def test_a_head_that_changes_its_logits_afterwards_says_so() -> None:
    """RTMDet with an objectness mixes it into the class maps."""
    this = case('dense: RTMDet')
    for config in (this.student, this.teacher):
        for option in ('share_conv', 'pred_kernel_size', 'exp_on_reg'):  # of RTMDetSepBNHead
            config.bbox_head.pop(option, None)
        config.bbox_head.update(type='RTMDetHead', with_objectness=True)
    with pytest.raises(ValueError, match='RTMDetHead mixes an objectness into its class logits'):
        this.distil('distill_then_task')


def test_cosine_classifiers_cannot() -> None:
    this = case('roi: double_head')
    student, teacher = zoo.pair(
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        roi_head__bbox_head__cls_predictor_cfg=dict(type='NormedLinear', temperature=20),
    )
    with pytest.raises(ValueError, match=r'bbox_head\.fc_cls of StandardRoIHead is a NormedLinear'):
        Case(student, teacher, this.data).distil('distill_then_task')


def test_a_head_takes_one_layer() -> None:
    this = case('classifier: linear')
    losses = {
        name: dict(type='mmkd.AEKTLoss', serial='distill_then_task') for name in ('one', 'two')
    }
    with pytest.raises(ValueError, match='a head takes one serial layer'):
        classifiers.distiller(this.student, this.teacher, losses)


def test_weights_of_plain_models_come_back_as_they_are() -> None:
    model = DETECTORS.build(dict(type='mmdet.DetDataPreprocessor'))
    weights = {'module.a': torch.ones(2), 'steps': torch.ones(1)}
    plain = plain_weights(model, weights)
    assert plain.keys() == weights.keys()
    assert all(plain[key] is weights[key] for key in weights)
