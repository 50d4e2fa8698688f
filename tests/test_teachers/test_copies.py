"""A copy of a distiller has teachers of its own, those that are trained or averaged included."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tiny import CKD, student_model, teacher_model
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
