from __future__ import annotations

import math

import pytest
import torch

from mmkd.functional import kd_loss, ofa_loss

LABELS = torch.tensor([0, 3, 1, 4, 2, 3])


def make_logits():
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def formula(student, teacher, gamma, temperature):
    total = 0.0
    for s, t, label in zip(student.tolist(), teacher.tolist(), LABELS.tolist(), strict=True):
        q, p = ([math.exp(x / temperature) for x in row] for row in (s, t))
        for c in range(5):
            p_c = p[c] / sum(p)
            target = (1 + p_c) ** gamma - 1 if c == label else p_c**gamma
            total -= target * math.log(q[c] / sum(q))
    return total / 6


@pytest.mark.parametrize(('gamma', 'temperature'), [(1.5, 1.0), (1.0, 4.0), (3.0, 0.5)])
def test_value_is_the_formula(gamma, temperature):
    student, teacher = make_logits()
    loss = ofa_loss(student, teacher, LABELS, gamma, temperature)
    assert loss.item() == pytest.approx(formula(student, teacher, gamma, temperature), rel=1e-12)


def test_gamma_1_has_the_gradient_of_kd():
    student, teacher = make_logits()
    losses = ofa_loss(student, teacher, LABELS, gamma=1.0), kd_loss(student, teacher, 1.0)
    ours, theirs = (torch.autograd.grad(loss, student)[0] for loss in losses)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def test_a_larger_gamma_pulls_the_target_class_harder():
    student = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
    pulls = []
    for gamma in (1.0, 1.5, 2.0):
        loss = ofa_loss(student, teacher, torch.tensor([0]), gamma)
        pulls.append(-torch.autograd.grad(loss, student)[0][0, 0].item())
    assert pulls == sorted(pulls)
    assert pulls[0] < pulls[-1]


@pytest.mark.parametrize('gamma', [0.0, -1.0, math.inf])
def test_a_gamma_that_is_not_positive_is_an_error(gamma):
    with pytest.raises(ValueError, match='gamma'):
        ofa_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2).long(), gamma)
