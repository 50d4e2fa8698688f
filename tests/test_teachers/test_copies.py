"""A copy of a distiller has teachers of its own, those that are trained or averaged included."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny import CKD, fresh_hub, same, student_model, teacher_model, weights
from torch import nn
from zoo import batch, mmdet_scope, one_step

from mmkd.distillers import Distiller


@pytest.mark.parametrize(
    'teacher',
    [
        dict(type='mmkd.AveragedTeacher'),
        dict(
            type='mmkd.PeerTeacher',
            config=dict(model=teacher_model(), default_scope='mmdet'),
            losses=dict(ckd=CKD),
        ),
    ],
    ids=['averaged', 'peer'],
)
def test_what_a_teacher_trains_or_averages_is_the_copys_own(teacher: dict[str, Any]) -> None:
    with mmdet_scope():
        model = Distiller(student=student_model(), teacher=teacher, losses=dict(ckd=CKD))
        model.init_weights()
    model.train()
    twin = copy.deepcopy(model)
    assert isinstance(twin.teacher.module, nn.Module)
    assert twin.teacher.module is twin.distill['teacher']
    assert twin.teacher.model is not model.teacher.model
    theirs = one_step(twin, batch(size=64, num_classes=10))
    assert all(parameter.grad is None for parameter in model.parameters())
    ours = one_step(model, batch(size=64, num_classes=10))
    assert ours['loss_ckd'] == theirs['loss_ckd']


def test_a_copys_average_follows_the_copys_student_alone() -> None:
    with mmdet_scope():
        model = Distiller(
            student=student_model(),
            teacher=dict(type='mmkd.AveragedTeacher', momentum=0.5),
            losses=dict(ckd=CKD),
        )
        model.init_weights()
    one_step(model.train(), batch(size=64, num_classes=10))
    twin = copy.deepcopy(model)
    before = weights(model.teacher.model)
    with torch.no_grad():
        for parameter in twin.student.parameters():
            parameter.mul_(1.1)
    fresh_hub(iter=1)
    one_step(twin, batch(size=64, num_classes=10))
    assert same(before, model.teacher.model.state_dict())
    assert not same(before, twin.teacher.model.state_dict())
