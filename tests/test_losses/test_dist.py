from __future__ import annotations

import numpy as np
import pytest
import torch

from mmkd.registry import LOSSES, build

DIST = dict(type='mmkd.DISTLoss', beta=0.3, gamma=0.6, temperature=2.0)


def test_value_is_that_of_numpys_correlations(make_table, attach, step_of):
    weights = torch.ones(12, dtype=torch.float64)
    weights[10:] = 0
    table = make_table('softmax', weights=weights)

    value = attach(DIST, table)(step_of(table))

    student = (table.student.detach()[:10] / 2).softmax(1).numpy()
    teacher = (table.teacher[:10] / 2).softmax(1).numpy()
    rows = [1 - np.corrcoef(p, q)[0, 1] for p, q in zip(teacher, student, strict=True)]
    columns = [1 - np.corrcoef(p, q)[0, 1] for p, q in zip(teacher.T, student.T, strict=True)]
    assert value.item() == pytest.approx(4 * (0.3 * np.mean(rows) + 0.6 * np.mean(columns)))


def test_trains_a_faster_rcnn(distil, gradient_of_step):
    value, gradient = gradient_of_step(distil('faster_rcnn', **DIST))

    assert 0 < value < float('inf')
    assert gradient.isfinite().all()
    assert gradient.any()


def test_sigmoid_head_is_referred_to_ckd_and_qfl_kd(distil):
    with pytest.raises(ValueError, match=r'use mmkd\.CKDLoss .* or mmkd\.QFLKDLoss'):
        distil('retinanet', **DIST)


def test_wrong_temperature_is_named_when_built():
    with pytest.raises(ValueError, match=r'model\.losses\.dist\.temperature: 0'):
        build(LOSSES, DIST | dict(temperature=0), 'model.losses.dist')
