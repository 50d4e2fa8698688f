"""CrossKD on MMDetection's own dense heads: what goes through the teacher's head, and what learns of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from mmkd.distillers import Distiller
from mmkd.functional import qfl_kd_loss
from mmkd.losses import AllSamples
from mmkd.structures import Logits
from mmkd.teachers.precision import TeacherPrecision

CONFIGS = {
    'RetinaNet': 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'GFL': 'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    'ATSS': 'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'FCOS': 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py',
}
CROSS_KD = dict(type='mmkd.CrossKDLoss')
CLASSES = 5


def pair(name: str, **overrides: Any) -> tuple[Any, Any]:
    return zoo.pair(CONFIGS[name], bbox_head__num_classes=CLASSES, **overrides)


def crossed(name: str, **options: Any) -> Distiller:
    model = zoo.distiller(*pair(name), losses=dict(cross=CROSS_KD | options))
    noise = torch.Generator().manual_seed(0)
    for head in (model.student.bbox_head, model.teacher.model.bbox_head):
        with torch.no_grad():  # untrained heads predict nearly the same everywhere
            for parameter in head.parameters():
                if parameter.dim() == 4:
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
    return model


def tower(convolutions: Any, features: Tensor) -> Tensor:
    for convolution in convolutions:
        features = convolution(features)
    return features


@pytest.mark.parametrize('name', CONFIGS)
def test_the_students_features_go_through_the_rest_of_the_teachers_head(name: str) -> None:
    """The scores, written out a second time with the two heads' own layers."""
    model = crossed(name, layer=2, boxes='none')
    steps = zoo.record_steps(model)
    data = zoo.batch(num_classes=CLASSES, boxes=(3, 0))
    losses = zoo.one_step(model, data, of='loss_cross')

    student, teacher = model.student, model.teacher.model
    layer = {'RetinaNet': 'retina_cls', 'GFL': 'gfl_cls', 'ATSS': 'atss_cls', 'FCOS': 'conv_cls'}
    rows, taught = [], []
    with torch.no_grad():
        theirs = teacher.bbox_head(teacher.extract_feat(data['inputs']))[0]
        for level, maps in zip(student.extract_feat(data['inputs']), theirs, strict=True):
            ours = tower(student.bbox_head.cls_convs[:2], level)
            ours = tower(teacher.bbox_head.cls_convs[2:], ours)
            logits = getattr(teacher.bbox_head, layer[name])(ours)
            for into, each in ((rows, logits), (taught, maps)):
                into.append(each.unflatten(1, (-1, CLASSES)).permute(0, 3, 4, 1, 2).flatten(1, 3))
    (pairs,) = steps[0].ask(Logits(crossed=2, samples=AllSamples()))
    torch.testing.assert_close(pairs.student, torch.cat(rows, dim=1).flatten(0, 1))
    torch.testing.assert_close(pairs.teacher, torch.cat(taught, dim=1).flatten(0, 1))
    positives = ((pairs.labels < CLASSES) & (pairs.weights > 0)).sum().clamp(min=1)
    expected = qfl_kd_loss(pairs.student, pairs.teacher, 1.0, pairs.weights, positives)
    torch.testing.assert_close(losses['loss_cross'], expected)


@pytest.mark.parametrize('name', CONFIGS)
def test_it_trains_the_students_towers_and_not_its_last_layers_or_the_teacher(name: str) -> None:
    model = crossed(name)
    before = copy.deepcopy(model.teacher.model.state_dict())
    losses = zoo.one_step(model, zoo.batch(num_classes=CLASSES), of='loss_cross')
    assert losses['loss_cross'] > 0
    head = model.student.bbox_head
    for trained in (model.backbone, head.cls_convs[:3], head.reg_convs[:3]):
        assert zoo.gradient(trained).isfinite().all()
        assert zoo.gradient(trained).any()
    unused = [head.cls_convs[3], head.reg_convs[3], *head.children()]
    towers = (head.cls_convs, head.reg_convs)
    for part in unused:
        if not any(part is tower for tower in towers):
            assert not any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())
    after = model.teacher.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(('name', 'kind'), [('RetinaNet', 'giou'), ('GFL', 'ld')])
def test_boxes_are_distributions_where_both_heads_predict_them(name: str, kind: str) -> None:
    data = zoo.batch(num_classes=CLASSES)
    values = {
        boxes: zoo.one_step(crossed(name, boxes=boxes), copy.deepcopy(data))['loss_cross']
        for boxes in ('auto', kind, 'none')
    }
    torch.testing.assert_close(values['auto'], values[kind])
    assert values['auto'] > values['none']


@pytest.mark.parametrize(
    ('teacher', 'message'),
    [
        (dict(bbox_head__stacked_convs=3), '3 convolutions'),
        (dict(bbox_head__norm_cfg=dict(type='BN')), 'BatchNorm2d'),
        (
            dict(neck__out_channels=64, bbox_head__in_channels=64, bbox_head__feat_channels=64),
            '64 channels',
        ),
    ],
    ids=['depth', 'normalisation', 'width'],
)
def test_heads_that_differ_are_refused_before_the_first_step(
    teacher: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf'model\.losses\.cross: .*{message}.*stacked_convs'):
        zoo.distiller(
            pair('RetinaNet')[0], pair('RetinaNet', **teacher)[1], losses=dict(cross=CROSS_KD)
        )


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ('mmdet::tood/tood_r50_fpn_1x_coco.py', 'TOODHead has no cls_convs'),
        ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '.* is a StandardRoIHead'),
    ],
)
def test_heads_without_towers_are_refused(config: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf'model\.losses\.cross: {message}'):
        zoo.distiller(*zoo.pair(config), losses=dict(cross=CROSS_KD))


def test_a_two_stage_teachers_head_takes_no_features_of_a_dense_students() -> None:
    teacher = zoo.pair(
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        roi_head__bbox_head__num_classes=CLASSES,
    )[1]
    with pytest.raises(
        ValueError, match=r"model\.losses\.cross: .*RetinaHead, the teacher's a StandardRoIHead"
    ):
        zoo.distiller(pair('RetinaNet')[0], teacher, losses=dict(cross=CROSS_KD))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_teachers_head_computes_in_its_own_number_type(dtype: str) -> None:
    model = crossed('RetinaNet')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = zoo.one_step(model, zoo.batch(num_classes=CLASSES))['loss_cross']
    model.teacher._precision = TeacherPrecision(model.teacher.model, dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = zoo.one_step(model, zoo.batch(num_classes=CLASSES))['loss_cross']
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0)


def test_losses_that_cross_at_different_layers_have_each_their_own_features() -> None:
    losses = {f'at{layer}': CROSS_KD | dict(layer=layer) for layer in (2, 3)}
    data = zoo.batch(num_classes=CLASSES)
    both = zoo.one_step(zoo.distiller(*pair('RetinaNet'), losses=losses), data)
    for name, loss in losses.items():
        alone = zoo.one_step(zoo.distiller(*pair('RetinaNet'), losses={name: loss}), data)
        assert torch.equal(both[f'loss_{name}'], alone[f'loss_{name}'])


def test_a_layer_that_the_heads_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match='the layer to cross at is one of 1 to 4, not 5'):
        zoo.distiller(*pair('RetinaNet'), losses=dict(cross=CROSS_KD | dict(layer=5)))
    with pytest.raises(ValueError, match=r'model\.losses\.cross\.layer: 0'):
        zoo.distiller(*pair('RetinaNet'), losses=dict(cross=CROSS_KD | dict(layer=0)))
