from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmkd.functional import correlation_kd_loss


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def terms(student, teacher, temperature):
    q, p = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    return [1 - F.cosine_similarity(q, p, dim=dim).abs().mean().item() for dim in (1, 0)]


@pytest.mark.parametrize(
    ('temperature', 'rows', 'columns'), [(4.0, 2.0, 2.0), (1.0, 3.0, 0.0), (0.5, 0.0, 1.0)]
)
def test_value_is_the_formula(temperature, rows, columns):
    student, teacher = make_logits()
    of_samples, of_classes = terms(student, teacher, temperature)
    loss = correlation_kd_loss(student, teacher, temperature, rows, columns)
    expected = temperature**2 * (rows * of_samples + columns * of_classes)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_shifted_rows_change_nothing():
    student, teacher = make_logits()
    shifts = torch.tensor([[-30.0], [7.0], [0.5], [90.0], [-2.0], [11.0]], dtype=torch.float64)
    expected = correlation_kd_loss(student, teacher).item()
    assert correlation_kd_loss(student + shifts, teacher).item() == pytest.approx(expected)


def test_one_sample_has_no_relations_to_others():
    student, teacher = make_logits(num_samples=1)
    loss = correlation_kd_loss(student, teacher, rows=0.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-20)
    assert torch.allclose(student.grad, torch.zeros_like(student), rtol=0, atol=1e-15)


def test_classes_that_nobody_sees_are_equal():
    """Probabilities that underflow leave columns of zeros, which have no direction."""
    student = torch.tensor([[0.0, 200.0, 100.0], [0.0, 100.0, 200.0]], requires_grad=True)
    loss = correlation_kd_loss(student, student.detach().flip(1).flip(1), temperature=1.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))
