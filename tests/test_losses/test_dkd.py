from __future__ import annotations

import pytest
import torch

from mmkd.functional import dkd_loss
from mmkd.registry import LOSSES, build

DKD = dict(type='mmkd.DKDLoss', alpha=0.5, beta=2.0, temperature=3.0)


def test_background_is_a_target_like_any_other(make_table, attach, step_of):
    table = make_table('softmax')
    assert (table.labels == table.num_classes).any()

    value = attach(DKD, table)(step_of(table))

    expected = dkd_loss(table.student, table.teacher, table.labels, 0.5, 2.0, 3.0)
    torch.testing.assert_close(value, expected)


def test_samples_without_a_target_or_a_weight_do_not_count(make_table, attach, step_of):
    labels = torch.tensor([0, 1, -1, 2, 4, 3])
    weights = torch.tensor([1.0, 2.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    table = make_table('softmax', samples=6, labels=labels, weights=weights)

    value = attach(DKD, table)(step_of(table))

    counted = [0, 1, 1, 4, 5]  # a weight of 2 is the sample twice
    expected = dkd_loss(
        table.student[counted], table.teacher[counted], labels[counted], 0.5, 2.0, 3.0
    )
    torch.testing.assert_close(value, expected)


def test_trains_a_faster_rcnn(distil, gradient_of_step):
    value, gradient = gradient_of_step(distil('faster_rcnn', **DKD))

    assert 0 < value < float('inf')
    assert gradient.isfinite().all()
    assert gradient.any()


def test_head_without_labels_is_an_error_that_names_losses_without(make_table, attach, step_of):
    table = make_table('softmax', labels=None)

    with pytest.raises(ValueError, match=r'DKDLoss needs the class.*use mmkd\.KDLoss'):
        attach(DKD, table)(step_of(table))


def test_sigmoid_head_is_referred_to_aekt(distil):
    with pytest.raises(ValueError, match=r"use mmkd\.AEKTLoss with explicit='tckd'"):
        distil('retinanet', **DKD)


def test_wrong_temperature_is_named_when_built():
    with pytest.raises(ValueError, match=r'model\.losses\.dkd\.temperature: -1'):
        build(LOSSES, DKD | dict(temperature=-1), 'model.losses.dkd')
