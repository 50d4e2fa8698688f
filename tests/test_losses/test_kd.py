from __future__ import annotations

import pytest
import torch

from mmkd.functional import kd_loss, standardize_rows
from mmkd.registry import LOSSES, build

KD = dict(type='mmkd.KDLoss', temperature=2.0)


def test_value_is_hintons_over_the_samples_that_the_student_does_not_ignore(
    make_table, attach, step_of
):
    weights = torch.ones(12, dtype=torch.float64)
    weights[3:7] = 0
    table = make_table('softmax', weights=weights)
    kept = [0, 1, 2, 7, 8, 9, 10, 11]
    teacher = (table.teacher[kept] / 2).softmax(1)
    student = (table.student[kept] / 2).softmax(1)
    expected = 4 * (teacher * (teacher / student).log()).sum(1).mean()

    value = attach(KD, table)(step_of(table))

    torch.testing.assert_close(value, expected)


def test_stages_of_a_cascade_are_averaged(make_table, attach, step_of):
    first, second = make_table('softmax', seed=1), make_table('softmax', samples=5, seed=2)
    loss = attach(KD, first)

    both = loss(step_of(first, second))

    torch.testing.assert_close(both, (loss(step_of(first)) + loss(step_of(second))) / 2)


def test_standardized_rows_make_it_blind_to_scale_and_offset(make_table, attach, step_of):
    table = make_table('softmax')
    moved = make_table('softmax', student=5 * table.student.detach() + 3)
    lskd = attach(KD | dict(rows='standardize'), table)
    raw = attach(KD, table)

    torch.testing.assert_close(lskd(step_of(table)), lskd(step_of(moved)))
    assert not torch.isclose(raw(step_of(table)), raw(step_of(moved)))


@pytest.mark.parametrize(('logits', 'learns'), [(2, False), (3, True)])
def test_standardized_rows_of_two_logits_have_no_gradient_and_are_refused(
    logits, learns, make_table, attach
):
    table = make_table('softmax')
    table.student = table.student.detach()[:, :logits].clone().requires_grad_()
    table.teacher = table.teacher[:, :logits]
    kd_loss(standardize_rows(table.student), standardize_rows(table.teacher)).backward()
    assert (table.student.grad.abs().max() > 1e-6) == learns
    if learns:
        attach(KD | dict(rows='standardize'), table)
        return
    with pytest.raises(ValueError, match=r"KDLoss: standardised rows of 2 logit.*rows='raw'"):
        attach(KD | dict(rows='standardize'), table)


def test_sampler_chooses_the_samples(make_table, attach, step_of):
    table = make_table('softmax')
    foreground = table.labels < table.num_classes

    value = attach(KD | dict(samples=dict(type='mmkd.Positives')), table)(step_of(table))

    expected = kd_loss(table.student[foreground], table.teacher[foreground], 2.0)
    torch.testing.assert_close(value, expected)


def test_trains_a_faster_rcnn(distil, gradient_of_step):
    value, gradient = gradient_of_step(distil('faster_rcnn', **KD))

    assert 0 < value < float('inf')
    assert gradient.isfinite().all()
    assert gradient.any()


def test_sigmoid_head_is_referred_to_qfl_kd_before_training(distil):
    with pytest.raises(ValueError, match=r'KDLoss is for softmax heads.*use mmkd\.QFLKDLoss'):
        distil('retinanet', **KD)


def test_wrong_options_are_named_when_built():
    with pytest.raises(ValueError, match=r'model\.losses\.kd\.temperature: 0'):
        build(LOSSES, KD | dict(temperature=0), 'model.losses.kd')
    with pytest.raises(ValueError, match=r"model\.losses\.kd\.rows: 'lskd'"):
        build(LOSSES, KD | dict(rows='lskd'), 'model.losses.kd')
    with pytest.raises(
        TypeError, match=r'model\.losses\.kd: KDLoss: .*tau.*options are: temperature'
    ):
        build(LOSSES, dict(type='mmkd.KDLoss', tau=4), 'model.losses.kd')
