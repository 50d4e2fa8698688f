"""The label as a teacher: what it says, what runs, and what cannot be asked of it."""

from __future__ import annotations

import copy
from typing import Any

import asks
import pytest
import test_classifier as classifiers
import torch
import zoo
from mmengine.registry import DefaultScope
from tiny import student_model

from mmkd.distillers import Distiller
from mmkd.functional import kd_loss, virtual_logits

VIRTUAL = dict(type='mmkd.VirtualTeacher')
TF_KD = dict(tf_kd=dict(type='mmkd.KDLoss', weight=0.1, temperature=20.0))


def make(student: Any, losses: Any = TF_KD, teacher: Any = VIRTUAL) -> Distiller:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = Distiller(
            student=copy.deepcopy(student),
            teacher=teacher,
            losses=losses,
            data_preprocessor=dict(classifiers.STUDENT_PIXELS),
        )
    torch.nn.init.normal_(model.head.fc.weight)
    return model.train()


def test_kd_pulls_to_the_smoothed_label_and_no_network_runs() -> None:
    model = make(classifiers.resnet())
    losses, step = classifiers.take_step(model)
    ours, theirs = classifiers.logits_of(step)
    shares = torch.eye(classifiers.CLASSES)[[0, 1, 2, 3, 4, 0]]
    torch.testing.assert_close(theirs, virtual_logits(shares))
    expected = 0.1 * kd_loss(ours, theirs, 20.0)
    torch.testing.assert_close(losses['loss_tf_kd'], expected)
    losses['loss_tf_kd'].backward()
    assert zoo.gradient(model.backbone).any()
    assert not any(parameter.numel() for parameter in model.teacher.model.parameters())
    assert not any(key.startswith('distill.') for key in model.state_dict())


def test_mixed_images_have_the_mixture() -> None:
    student = classifiers.resnet() | dict(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)]))
    _, step = classifiers.take_step(make(student))
    shares = torch.stack([sample.gt_score for sample in step.data_samples])
    assert ((shares > 0) & (shares < 1)).any()
    torch.testing.assert_close(asks.tables(step)[0].teacher_rows, virtual_logits(shares))


def test_other_losses_on_logits_take_it_too() -> None:
    losses = dict(dkd=dict(type='mmkd.DKDLoss'), dist=dict(type='mmkd.DISTLoss'))
    values, _ = classifiers.take_step(make(classifiers.resnet(), losses))
    assert values['loss_dkd'] > 0
    assert values['loss_dist'] > 0


def test_copies_and_moves_are_possible() -> None:
    model = make(classifiers.resnet())
    twin = copy.deepcopy(model).double().float()
    values, other = (classifiers.take_step(each)[0] for each in (model, twin))
    assert torch.equal(values['loss_tf_kd'], other['loss_tf_kd'])


@pytest.mark.parametrize(
    ('kind', 'loss'),
    [
        ('LinearClsHead', dict(type='mmkd.RKDLoss')),
        ('MultiLabelLinearClsHead', dict(type='mmkd.CKDLoss')),
    ],
)
def test_what_a_label_does_not_say_is_refused_by_the_name_of_the_loss(kind: str, loss: Any) -> None:
    with pytest.raises(ValueError, match=r'model\.losses\.asked: .*VirtualTeacher'):
        make(classifiers.resnet(kind=kind), dict(asked=loss))


def test_detectors_are_refused() -> None:
    with zoo.mmdet_scope(), pytest.raises(ValueError, match=r'model\.losses\.ckd'):
        Distiller(student_model(), teacher=VIRTUAL, losses=dict(ckd=dict(type='mmkd.CKDLoss')))


@pytest.mark.parametrize('confidence', [0, 1, 'high'])
def test_a_confidence_out_of_range_is_named(confidence: Any) -> None:
    with pytest.raises(ValueError, match=r'model\.teacher\.confidence'):
        make(classifiers.resnet(), teacher=VIRTUAL | dict(confidence=confidence))
