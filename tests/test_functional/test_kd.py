from __future__ import annotations

import math

import pytest
import torch

from mmkd.functional import kd_loss


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def softmax(logits: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(logit / temperature) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials]


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_value_is_the_formula(temperature):
    student, teacher = make_logits()
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        expected += sum(p_c * math.log(p_c / q_c) for p_c, q_c in zip(p, q, strict=True))
    expected *= temperature**2 / len(student)
    assert kd_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_the_difference_of_probabilities():
    student, teacher = make_logits()
    kd_loss(student, teacher, 2.0).backward()
    difference = (student.detach() / 2).softmax(1) - (teacher / 2).softmax(1)
    assert torch.allclose(student.grad, 2.0 * difference / 6, rtol=1e-10)


def test_shifted_rows_change_nothing():
    student, teacher = make_logits()
    shifts = torch.tensor([[-30.0], [7.0], [0.5], [90.0], [-2.0], [11.0]], dtype=torch.float64)
    loss = kd_loss(student, teacher)
    assert kd_loss(student + shifts, teacher).item() == pytest.approx(loss.item(), rel=1e-10)
    assert kd_loss(student, teacher + shifts).item() == pytest.approx(loss.item(), rel=1e-10)
