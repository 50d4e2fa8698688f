from __future__ import annotations

import math

import pytest
import torch

from mmkd.functional import kd_loss, ttm_loss


def make_logits():
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def formula(student, teacher, gamma, weighted):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (s, t))
        power_sum = sum(p_c**gamma for p_c in p)
        transformed = [p_c**gamma / power_sum for p_c in p]
        divergence = sum(a * math.log(a / b) for a, b in zip(transformed, q, strict=True))
        total += (power_sum if weighted else 1) * divergence
    return total / 6


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('gamma', [0.1, 1.0, 2.5])
def test_value_is_the_formula(gamma, weighted):
    student, teacher = make_logits()
    loss = ttm_loss(student, teacher, gamma, weighted)
    assert loss.item() == pytest.approx(formula(student, teacher, gamma, weighted), rel=1e-12)


@pytest.mark.parametrize('weighted', [False, True])
def test_power_1_is_kd_without_a_temperature(weighted):
    student, teacher = make_logits()
    expected = kd_loss(student, teacher, temperature=1.0).item()
    assert ttm_loss(student, teacher, 1.0, weighted).item() == pytest.approx(expected, rel=1e-12)


def test_an_unsure_teacher_counts_more_if_weighted():
    student = torch.zeros(1, 4, dtype=torch.float64)
    sure, unsure = (torch.tensor([[scale, 0.0, 0.0, 0.0]]).double() for scale in (8.0, 2.0))
    factors = [
        ttm_loss(student, teacher, 0.5, weighted=True) / ttm_loss(student, teacher, 0.5)
        for teacher in (sure, unsure)
    ]
    assert 1 < factors[0] < factors[1] < 2


@pytest.mark.parametrize('gamma', [0.0, -1.0, math.inf])
def test_a_gamma_that_is_not_positive_is_an_error(gamma):
    with pytest.raises(ValueError, match='gamma'):
        ttm_loss(torch.zeros(2, 3), torch.zeros(2, 3), gamma)
