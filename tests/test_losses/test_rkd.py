"""RKD on the pooled features of classifiers."""

from __future__ import annotations

import pytest
import test_classifier as classifiers
import torch
import zoo

from mmkd.functional import rkd_loss

RKD = dict(rkd=dict(type='mmkd.RKDLoss'))


def test_it_relates_what_the_class_layers_read() -> None:
    student, teacher = classifiers.STUDENTS['stacked'], classifiers.TEACHERS['vit']
    model = classifiers.distiller(student, teacher, RKD)
    losses, step = classifiers.take_step(model)
    ours = model.student.head.pre_logits(model.student.extract_feat(step.inputs))
    images = model.teacher.convert_pixels(step.inputs, step.data_samples)
    theirs = model.teacher.model.head.pre_logits(model.teacher.model.extract_feat(images))
    assert ours.dim() == theirs.dim() == 2
    assert ours.shape[1] != theirs.shape[1]
    expected = rkd_loss(ours, theirs)
    assert expected > 0
    torch.testing.assert_close(losses['loss_rkd'], expected, rtol=1e-4, atol=1e-5)
    losses['loss_rkd'].backward()
    gradient = zoo.gradient(model.student.backbone)
    assert gradient.isfinite().all()
    assert gradient.any()
    assert all(parameter.grad is None for parameter in model.student.head.layers[-1].parameters())


def test_another_place_may_be_named_for_each_network() -> None:
    options = dict(RKD['rkd'], at='neck', teacher_at='pre_logits')
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'], classifiers.TEACHERS['vit'], dict(rkd=options)
    )
    losses, _ = classifiers.take_step(model)
    assert losses['loss_rkd'] > 0


def test_detectors_have_no_pooled_features() -> None:
    pair = zoo.pair('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    with pytest.raises(ValueError, match=r'model\.losses\.rkd: .*RetinaNet\)'):
        zoo.distiller(*pair, losses=RKD)
    maps = dict(rkd=dict(RKD['rkd'], at='neck'))
    with pytest.raises(
        ValueError, match=r'RKDLoss compares \(B, C\) features, and neck gives feat'
    ):
        zoo.distiller(*pair, losses=maps)
