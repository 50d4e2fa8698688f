"""CWD on necks, on class maps of dense heads and on stages of backbones."""

from __future__ import annotations

from typing import Any

import asks
import pytest
import test_classifier as classifiers
import torch
import zoo
from tiny import fresh_hub

from mmkd.functional import cwd_loss
from mmkd.structures import ClassMaps

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
CLASSES = 4


def step(detector: str = RETINANET, **options: Any) -> tuple[Any, Any, Any]:
    losses = dict(cwd=dict(type='mmkd.CWDLoss', **options))
    model = zoo.distiller(*zoo.pair(detector, bbox_head__num_classes=CLASSES), losses=losses)
    steps = zoo.record_steps(model)
    values = zoo.one_step(model, zoo.batch(num_classes=CLASSES), of='loss_cwd')
    return model, steps[0], values['loss_cwd']


def test_it_is_the_functions_sum_over_the_levels_of_the_neck() -> None:
    model, taken, value = step(temperature=3.0)
    pairs = asks.feature_pairs(taken)
    assert [pair.stride for pair in pairs] == [8, 16, 32, 64, 128]
    expected = sum(cwd_loss(pair.student, pair.teacher, 3.0) for pair in pairs)
    torch.testing.assert_close(value, expected)
    assert zoo.gradient(model.student.neck).any()
    assert not any(p.grad is not None for p in model.student.bbox_head.parameters())


def test_class_maps_are_the_heads_logits_and_train_its_class_branch() -> None:
    model, taken, value = step(at='class_maps', temperature=5.0)
    pairs = taken.ask(ClassMaps())
    maps = model.teacher.model.bbox_head(model.teacher.model.extract_feat(taken.inputs))[0]
    assert [pair.stride for pair in pairs] == [8, 16, 32, 64, 128]
    for pair, expected in zip(pairs, maps, strict=True):
        torch.testing.assert_close(pair.teacher, expected)
        assert not pair.teacher.requires_grad
    expected = sum(cwd_loss(pair.student, pair.teacher, 5.0) for pair in pairs)
    torch.testing.assert_close(value, expected)
    head = model.student.bbox_head
    assert zoo.gradient(head.retina_cls).any()
    assert not any(p.grad is not None and p.grad.any() for p in head.retina_reg.parameters())


def test_a_classifiers_stages_are_maps() -> None:
    losses = dict(
        cwd=dict(
            type='mmkd.CWDLoss',
            at=['backbone.layer1', 'backbone.layer2'],
            connector=dict(type='mmkd.ConvConnector'),
        )
    )
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'], classifiers.TEACHERS['linear'], losses
    )
    values, _ = classifiers.take_step(model)
    assert values['loss_cwd'] > 0
    assert sorted(model.distill['cwd'].connectors) == ['0', '1']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(at='backbone.layer9'), r"'backbone.layer9': the student .* nearest: backbone.layer"),
        (dict(at='neck', teacher_at='backbone.stem'), r"'backbone.stem': the teacher"),
        (dict(at='backbone.layer1', teacher_at='backbone.layer4'), r'a pair has equal strides'),
        (dict(at='backbone.layer3', strides=[8]), r'CWDLoss\.strides: \[8\]'),
        (dict(teacher='big'), r"model\.losses\.cwd\.teacher: there is no teacher 'big'"),
    ],
)
def test_what_neither_network_has_is_named_before_the_first_step(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        step(**options)


def test_class_maps_of_a_head_that_outputs_probabilities_are_their_logits() -> None:
    fresh_hub(epoch=0)  # TOOD asks for it
    _, taken, _ = step('mmdet::tood/tood_r50_fpn_1x_coco.py', at='class_maps')
    first = taken.ask(ClassMaps())[0].student
    torch.testing.assert_close(first.sigmoid(), taken.record('head')[0][0][0])
    assert (first < 0).any()


def test_only_dense_heads_have_class_maps() -> None:
    pair = zoo.pair('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    losses = dict(cwd=dict(type='mmkd.CWDLoss', at='class_maps'))
    with pytest.raises(ValueError, match=r'model\.losses\.cwd: StandardRoIHead has no class maps'):
        zoo.distiller(*pair, losses=losses)


def test_a_classifiers_pooled_features_are_not_taken_for_maps() -> None:
    """Issue: (B, 64) beside (B, 256) was read as a map of 64 channels."""
    losses = dict(pkd=dict(type='mmkd.PKDLoss'))
    with pytest.raises(ValueError, match=r'PKDLoss compares feature maps, and neck gives pooled'):
        classifiers.distiller(
            classifiers.STUDENTS['linear'], classifiers.TEACHERS['linear'], losses
        )
