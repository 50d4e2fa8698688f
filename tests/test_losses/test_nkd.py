from __future__ import annotations

import pytest
import torch

from mmkd.functional import nkd_loss
from mmkd.registry import LOSSES, build

NKD = dict(type='mmkd.NKDLoss', gamma=0.7, temperature=2.0)


def test_value_is_the_functions_over_the_samples_that_count(make_table, attach, step_of):
    weights = torch.ones(12, dtype=torch.float64)
    weights[:4] = 0
    table = make_table('softmax', weights=weights)

    value = attach(NKD, table)(step_of(table))

    expected = nkd_loss(table.student[4:], table.teacher[4:], table.labels[4:], 0.7, 2.0)
    torch.testing.assert_close(value, expected)


def test_trains_a_faster_rcnn(distil, gradient_of_step):
    value, gradient = gradient_of_step(distil('faster_rcnn', **NKD))

    assert 0 < value < float('inf')
    assert gradient.isfinite().all()
    assert gradient.any()


def test_head_without_labels_is_an_error(make_table, attach, step_of):
    table = make_table('softmax', labels=None)

    with pytest.raises(ValueError, match='NKDLoss needs the class of every sample'):
        attach(NKD, table)(step_of(table))


def test_sigmoid_head_is_referred_to_aekt(distil):
    with pytest.raises(ValueError, match=r"use mmkd\.AEKTLoss with explicit='nkd'"):
        distil('retinanet', **NKD)


def test_wrong_temperature_is_named_when_built():
    with pytest.raises(ValueError, match=r'model\.losses\.nkd\.temperature: 0'):
        build(LOSSES, NKD | dict(temperature=0), 'model.losses.nkd')
