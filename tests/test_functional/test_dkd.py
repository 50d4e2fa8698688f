from __future__ import annotations

import math

import pytest
import torch

from mmkd.functional import dkd_loss, kd_loss, nckd, tckd

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def softmax(logits: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(logit / temperature) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials]


def loop_parts(student, teacher, labels, temperature) -> tuple[list[float], list[float]]:
    """TCKD and NCKD by the paper's equations, in Python floats."""
    tckds, nckds = [], []
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        tckds.append(p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y])))
        others = [c for c in range(len(s)) if c != y]
        p_hat = {c: p[c] / (1 - p[y]) for c in others}
        q_hat = {c: q[c] / (1 - q[y]) for c in others}
        nckds.append(sum(p_hat[c] * math.log(p_hat[c] / q_hat[c]) for c in others))
    return tckds, nckds


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_parts_are_the_formulas(temperature):
    student, teacher = make_logits()
    tckds, nckds = loop_parts(student, teacher, LABELS, temperature)
    assert tckd(student, teacher, LABELS, temperature).tolist() == pytest.approx(tckds, rel=1e-9)
    assert nckd(student, teacher, LABELS, temperature).tolist() == pytest.approx(nckds, rel=1e-9)


def test_value_is_the_weighted_sum_of_the_parts():
    student, teacher = make_logits()
    tckds, nckds = loop_parts(student, teacher, LABELS, 2.0)
    expected = 4.0 * (0.7 * sum(tckds) + 3.0 * sum(nckds)) / 6
    loss = dkd_loss(student, teacher, LABELS, alpha=0.7, beta=3.0, temperature=2.0)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_kd_is_tckd_plus_the_rest_of_the_probability_times_nckd():
    student, teacher = make_logits()
    p_y = (teacher / 2).softmax(1).gather(1, LABELS[:, None]).squeeze(1)
    parts = tckd(student, teacher, LABELS, 2.0) + (1 - p_y) * nckd(student, teacher, LABELS, 2.0)
    for row in range(6):
        alone = slice(row, row + 1)
        expected = kd_loss(student[alone], teacher[alone], 2.0).item() / 4
        assert parts[row].item() == pytest.approx(expected, rel=1e-10)


def test_two_classes_leave_nothing_but_the_target():
    student, teacher = make_logits(num_classes=2)
    labels = LABELS % 2
    assert torch.equal(nckd(student, teacher, labels), torch.zeros(6, dtype=torch.float64))
    loss = dkd_loss(student, teacher, labels, alpha=1.0, temperature=3.0)
    assert loss.item() == pytest.approx(kd_loss(student, teacher, 3.0).item(), rel=1e-10)


def test_shifted_rows_change_nothing():
    student, teacher = make_logits()
    shifts = torch.tensor([[-30.0], [7.0], [0.5], [90.0], [-2.0], [11.0]], dtype=torch.float64)
    loss = dkd_loss(student, teacher, LABELS).item()
    assert dkd_loss(student + shifts, teacher, LABELS).item() == pytest.approx(loss, rel=1e-10)
    assert dkd_loss(student, teacher + shifts, LABELS).item() == pytest.approx(loss, rel=1e-10)


def test_a_shifted_target_changes_only_tckd():
    student, teacher = make_logits()
    moved = student + 2.0 * torch.nn.functional.one_hot(LABELS, 5)
    assert torch.equal(nckd(moved, teacher, LABELS), nckd(student, teacher, LABELS))
    assert not torch.isclose(tckd(moved, teacher, LABELS), tckd(student, teacher, LABELS)).any()


def test_certainties_that_round_to_one_still_count():
    """1 - p_y is e^-60 here, far below the resolution of float32 and even float64 around 1."""
    teacher = torch.tensor([[60.0, 0.0, 0.0]])
    student = torch.tensor([[-60.0, 0.0, 0.0]], requires_grad=True)
    loss = tckd(student, teacher, torch.tensor([0]), temperature=1.0)
    assert loss.item() == pytest.approx(60.0 + math.log(2), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.tolist()[0] == pytest.approx([-1.0, 0.5, 0.5])


def test_doubts_below_the_resolution_of_float32_still_count():
    """1 - p_y is e^-18 and 1 - q_y is e^-30: both are 0 when computed as that difference."""
    teacher, student = torch.tensor([[18.0, 0.0]]), torch.tensor([[30.0, 0.0]])
    labels = torch.tensor([0])
    expected = tckd(student.double(), teacher.double(), labels, temperature=1.0).item()
    assert expected == pytest.approx(1.675e-7, rel=1e-3)
    assert tckd(student, teacher, labels, temperature=1.0).item() == pytest.approx(expected)


def test_labels_may_be_int32():
    student, teacher = make_logits()
    assert torch.equal(dkd_loss(student, teacher, LABELS.int()), dkd_loss(student, teacher, LABELS))


@pytest.mark.parametrize('loss', [dkd_loss, tckd, nckd])
def test_a_single_logit_is_an_error(loss):
    student, teacher = make_logits(num_classes=1)
    with pytest.raises(ValueError, match='1 per sample do not split into target and non-target'):
        loss(student, teacher, torch.zeros(6, dtype=torch.long))
