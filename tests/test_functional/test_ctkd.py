from __future__ import annotations

import math

import pytest
import torch

from mmkd.functional import ctkd_loss, kd_loss


def make_logits():
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def formula(student, teacher, raw, lowest, span):
    temperature = lowest + span / (1 + math.exp(-raw))
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(x / temperature) for x in row] for row in (s, t))
        for a, b in zip(p, q, strict=True):
            total += a / sum(p) * math.log(a / sum(p) * sum(q) / b)
    return temperature**2 * total / 6


@pytest.mark.parametrize(
    ('raw', 'lowest', 'span'), [(1.0, 1.0, 20.0), (-3.0, 1.0, 20.0), (0.5, 0.2, 4.0)]
)
def test_value_is_the_formula(raw, lowest, span):
    student, teacher = make_logits()
    loss = ctkd_loss(student, teacher, raw, lowest=lowest, span=span)
    assert loss.item() == pytest.approx(formula(student, teacher, raw, lowest, span), rel=1e-10)


def test_the_published_settings_are_the_default():
    student, teacher = make_logits()
    temperature = 1 + 20 / (1 + math.exp(-1))
    expected = kd_loss(student, teacher, temperature).item()
    assert ctkd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('reversal', [0.0, 0.25, 1.0])
def test_the_temperature_gets_the_reversed_gradient_and_the_student_its_own(reversal):
    student, teacher = make_logits()
    raw = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    loss = ctkd_loss(student, teacher, raw, reversal)
    ours, of_raw = torch.autograd.grad(loss, (student, raw))

    step = 1e-5
    above, below = (formula(student, teacher, -1 + sign * step, 1.0, 20.0) for sign in (1, -1))
    assert of_raw.item() == pytest.approx(-reversal * (above - below) / (2 * step), rel=1e-6)
    fixed = ctkd_loss(student, teacher, raw.detach(), reversal)
    assert torch.equal(ours, torch.autograd.grad(fixed, student)[0])


def test_a_half_precision_temperature_is_computed_in_float32():
    student, teacher = make_logits()
    raw = torch.ones(1, dtype=torch.float16, requires_grad=True)
    loss = ctkd_loss(student.float(), teacher.float(), raw)
    loss.backward()
    assert loss.item() == pytest.approx(ctkd_loss(student, teacher).item(), rel=1e-5)
    assert raw.grad.isfinite()


@pytest.mark.parametrize(
    'options',
    [{'lowest': 0.0}, {'span': 0.0}, {'reversal': -1.0}, {'raw_temperature': torch.ones(2)}],
)
def test_settings_out_of_range_are_an_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ctkd_loss(*make_logits(), **options)
