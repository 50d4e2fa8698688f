from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mmkd.functional import qfl_kd_loss


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def loop_sum(student, teacher, beta: float, weights: list[float]) -> float:
    total = 0.0
    for s_row, t_row, weight in zip(student.tolist(), teacher.tolist(), weights, strict=True):
        for s, t in zip(s_row, t_row, strict=True):
            q, p = 1 / (1 + math.exp(-s)), 1 / (1 + math.exp(-t))
            cross_entropy = -p * math.log(q) - (1 - p) * math.log(1 - q)
            total += weight * abs(q - p) ** beta * cross_entropy
    return total


@pytest.mark.parametrize('beta', [0.0, 1.0, 2.0])
def test_value_is_the_formula(beta):
    student, teacher = make_logits()
    expected = loop_sum(student, teacher, beta, [1.0] * 6)
    loss = qfl_kd_loss(student, teacher, beta)
    assert loss.item() == pytest.approx(expected / 6, rel=1e-10)


@pytest.mark.parametrize('avg_factor', [2.5, torch.tensor(2.5)])
def test_the_weighted_sum_is_divided_by_avg_factor(avg_factor):
    student, teacher = make_logits()
    weights = [0.5, 0.0, 2.0, 1.0, 0.1, 3.0]
    expected = loop_sum(student, teacher, 1.0, weights)
    loss = qfl_kd_loss(student, teacher, weights=torch.tensor(weights), avg_factor=avg_factor)
    assert loss.item() == pytest.approx(expected / 2.5, rel=1e-6)


@pytest.mark.parametrize('avg_factor', [0, 0.0, torch.tensor(0)])
def test_a_batch_without_positives_is_divided_by_one(avg_factor):
    student, teacher = make_logits()
    loss = qfl_kd_loss(student, teacher, avg_factor=avg_factor)
    assert loss.item() == qfl_kd_loss(student, teacher, avg_factor=1).item()


def test_beta_zero_is_the_binary_cross_entropy():
    student, teacher = make_logits()
    expected = F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction='sum')
    loss = qfl_kd_loss(student, teacher, beta=0.0, avg_factor=1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize('beta', [-1.0, 0.5, float('nan')])
def test_a_beta_with_infinite_gradients_is_an_error(beta):
    with pytest.raises(ValueError, match=r'beta: .* is neither 0 nor at least 1'):
        qfl_kd_loss(*make_logits(), beta=beta)


@pytest.mark.parametrize('beta', [0.0, 1.0, 1.5, 2.0])
def test_gradient_of_many_samples_is_that_of_the_formula(beta):
    """More rows than are computed at once; where scores are equal the modulation has no slope."""
    student, teacher = make_logits(1000, 80)
    with torch.no_grad():
        student[::7] = teacher[::7]
    weights = torch.linspace(0, 2, 1000, dtype=torch.float64)
    loss = qfl_kd_loss(student, teacher, beta, weights=weights, avg_factor=3)
    (gradient,) = torch.autograd.grad(2 * loss, student)

    targets = teacher.sigmoid()
    cross_entropies = F.binary_cross_entropy_with_logits(student, targets, reduction='none')
    modulation = (student.sigmoid() - targets).abs().pow(beta)
    plain = (weights * (modulation * cross_entropies).sum(1)).sum() / 3
    (expected,) = torch.autograd.grad(2 * plain, student)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradient, expected)
