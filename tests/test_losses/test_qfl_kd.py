from __future__ import annotations

import math

import asks
import pytest
import torch

from mmkd.registry import LOSSES, build

QFL_KD = dict(type='mmkd.QFLKDLoss')


def summed(table, samples=None, beta=1.0):
    """The formula, sample by sample and class by class, before it is divided by anything."""
    total = 0.0
    for row in range(len(table)) if samples is None else samples:
        for s, t in zip(table.student[row].tolist(), table.teacher[row].tolist(), strict=True):
            score, target = 1 / (1 + math.exp(-s)), 1 / (1 + math.exp(-t))
            entropy = -target * math.log(score) - (1 - target) * math.log(1 - score)
            total += float(table.weights[row]) * abs(score - target) ** beta * entropy
    return total


def positives(table):
    return int((table.labels < table.num_classes).sum())


def test_all_anchors_count_and_the_positives_divide(make_table, attach, step_of):
    table = make_table('sigmoid')
    assert 1 < positives(table) < len(table)

    value = attach(QFL_KD | dict(beta=2.0), table)(step_of(table))

    assert value.item() == pytest.approx(summed(table, beta=2.0) / positives(table))


def test_ignored_anchors_neither_count_nor_divide(make_table, attach, step_of):
    weights = torch.ones(12, dtype=torch.float64)
    weights[0] = 0  # a foreground anchor
    table = make_table('sigmoid', weights=weights)

    value = attach(QFL_KD, table)(step_of(table))

    assert value.item() == pytest.approx(summed(table) / (positives(table) - 1))


def test_without_positives_it_is_divided_by_one(make_table, attach, step_of):
    table = make_table('sigmoid', labels=torch.full((12,), 4))

    assert attach(QFL_KD, table)(step_of(table)).item() == pytest.approx(summed(table))


def test_the_positives_are_those_of_the_head_not_of_the_sample(make_table, attach, step_of):
    table = make_table('sigmoid')
    loss = attach(QFL_KD | dict(samples=dict(type='mmkd.TeacherTopK', k=3)), table)
    picked = table.teacher_confidence().topk(3).indices.tolist()

    value = loss(step_of(table))

    assert value.item() == pytest.approx(summed(table, picked) / positives(table))


def test_without_labels_it_averages_over_samples_when_told(make_table, attach, step_of):
    table = make_table('sigmoid', labels=None)

    with pytest.raises(ValueError, match=r"gives no labels: set average='samples'"):
        attach(QFL_KD, table)(step_of(table))
    value = attach(QFL_KD | dict(average='samples'), table)(step_of(table))
    assert value.item() == pytest.approx(summed(table) / len(table))


def test_trains_a_retinanet_on_all_its_anchors(distil, gradient_of_step):
    from zoo import record_steps

    model = distil('retinanet', **QFL_KD)
    steps = record_steps(model)

    value, gradient = gradient_of_step(model)

    (pairs,) = asks.logit_pairs(steps[0], model.distill_losses['tested'].sampler)
    assert len(pairs) == len(asks.tables(steps[0])[0]) > 2 * 9 * 16 * 16
    assert 0 < value < float('inf')
    assert gradient.isfinite().all()
    assert gradient.any()


def test_softmax_head_is_referred_to_kd(distil):
    with pytest.raises(ValueError, match=r'QFLKDLoss is for sigmoid heads.*use mmkd\.KDLoss'):
        distil('faster_rcnn', **QFL_KD)


def test_wrong_options_are_named_when_built():
    with pytest.raises(ValueError, match=r'model\.losses\.qfl\.beta: 0.5'):
        build(LOSSES, QFL_KD | dict(beta=0.5), 'model.losses.qfl')
    with pytest.raises(ValueError, match=r"model\.losses\.qfl\.average: 'anchors'"):
        build(LOSSES, QFL_KD | dict(average='anchors'), 'model.losses.qfl')
    with pytest.raises(
        ValueError, match=r"model\.losses\.qfl\.rows: 'standardize' changes the scores"
    ):
        build(LOSSES, QFL_KD | dict(rows='standardize'), 'model.losses.qfl')
