"""Necks are paired level by level, or the first difference is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import NUM_CLASSES, fresh_hub, student_model, teacher_model
from torch import nn
from zoo import batch, distiller, one_step, record_steps

from mmkd.heads import NeckAdapter

PKD = dict(pkd=dict(type='mmkd.PKDLoss'))


@pytest.fixture(autouse=True)
def no_run_in_progress() -> None:
    fresh_hub()


def adapt(teacher: Any, student: Any = None) -> NeckAdapter:
    model = distiller(student or student_model(), teacher, {})
    return NeckAdapter(model.student, model.teacher.model, loss='pkd')


def test_pairs_are_what_both_necks_put_out() -> None:
    model = distiller(student_model(), teacher_model(), PKD)
    steps = record_steps(model)
    data = batch(size=64, num_classes=NUM_CLASSES)
    one_step(model, data)
    pairs = steps[0].feature_pairs
    expected = model.teacher.features(data['inputs'], data['data_samples'])
    assert [pair.level for pair in pairs] == [0, 1, 2, 3, 4]
    for pair, theirs in zip(pairs, expected, strict=True):
        assert torch.equal(pair.teacher, theirs)
        assert not pair.teacher.requires_grad
        assert pair.student.requires_grad
        assert pair.student.shape == theirs.shape
    assert torch.equal(pairs[2].student, steps[0].record('neck')[0][2])


def test_channels_of_both_are_known_before_the_first_step() -> None:
    wide = teacher_model(
        neck__out_channels=24, bbox_head__in_channels=24, bbox_head__feat_channels=24
    )
    assert adapt(wide).channels == [(16, 24)] * 5


def test_looking_at_the_channels_changes_neither_modes_nor_statistics() -> None:
    model = distiller(student_model(), teacher_model(), {})
    model.backbone.layer1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    NeckAdapter(model.student, model.teacher.model, loss='pkd')
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_another_number_of_levels_is_told() -> None:
    teacher = teacher_model(neck__num_outs=4, bbox_head__anchor_generator__strides=[8, 16, 32, 64])
    with pytest.raises(
        ValueError, match=r"student's neck gives 5 levels, the teacher's 4: set num_o"
    ):
        adapt(teacher)


@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_a_model_without_neck_is_named_with_the_loss(role: str) -> None:
    class NoNeck(nn.Module):
        pass

    model = distiller(student_model(), teacher_model(), {})
    pair = dict(student=model.student, teacher=model.teacher.model) | {role: NoNeck()}
    with pytest.raises(
        ValueError, match=rf'model\.losses\.pkd compares .* the {role} \(NoNeck\) has no neck'
    ):
        NeckAdapter(**pair, loss='pkd')


def test_other_channels_are_told_where_a_loss_needs_them_equal() -> None:
    wide = teacher_model(
        neck__out_channels=24, bbox_head__in_channels=24, bbox_head__feat_channels=24
    )
    with pytest.raises(ValueError, match=r'student.*16.*teacher.*24.*out_channels'):
        one_step(distiller(student_model(), wide, PKD), batch(size=64, num_classes=NUM_CLASSES))
