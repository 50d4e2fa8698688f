from __future__ import annotations

import math

import pytest
import torch

from mmkd.functional import nckd, nkd_loss

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(logit / temperature) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials]


@pytest.mark.parametrize(('gamma', 'temperature'), [(1.5, 1.0), (0.5, 1.0), (1.5, 3.0), (0.0, 2.0)])
def test_value_is_the_formula(gamma, temperature):
    student, teacher = make_logits()
    expected = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), LABELS.tolist(), strict=True):
        expected -= softmax(t)[y] * math.log(softmax(s)[y])
        q, p = softmax(s, temperature), softmax(t, temperature)
        for c in range(5):
            if c != y:
                cross_entropy = -p[c] / (1 - p[y]) * math.log(q[c] / (1 - q[y]))
                expected += gamma * temperature**2 * cross_entropy
    loss = nkd_loss(student, teacher, LABELS, gamma=gamma, temperature=temperature)
    assert loss.item() == pytest.approx(expected / 6, rel=1e-10)


def test_gradient_of_the_other_classes_is_that_of_nckd():
    """A cross entropy and a divergence differ by what does not depend on the student."""
    student, teacher = make_logits()
    with_others = nkd_loss(student, teacher, LABELS, gamma=1.5, temperature=2.0)
    without = nkd_loss(student, teacher, LABELS, gamma=0.0)
    (gradient,) = torch.autograd.grad(with_others - without, student)
    divergence = 1.5 * 4.0 * nckd(student, teacher, LABELS, temperature=2.0).mean()
    (expected,) = torch.autograd.grad(divergence, student)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-14)


def test_equal_logits_give_the_entropy_of_the_teacher():
    teacher = torch.zeros(3, 5)
    loss = nkd_loss(teacher, teacher, torch.tensor([0, 1, 2]), gamma=1.5)
    assert loss.item() == pytest.approx(math.log(5) / 5 + 1.5 * math.log(4), rel=1e-6)


def test_a_single_logit_is_an_error():
    student, teacher = make_logits(num_classes=1)
    with pytest.raises(ValueError, match='1 per sample do not split into target and non-target'):
        nkd_loss(student, teacher, torch.zeros(6, dtype=torch.long))
