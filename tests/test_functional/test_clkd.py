from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmkd.functional import clkd_loss


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def plain_loss(student, teacher, mu=0.5, beta=2.0, nu=0.4):
    of_samples, of_classes = (
        F.mse_loss(F.normalize(student, dim=dim), F.normalize(teacher, dim=dim)) for dim in (1, 0)
    )
    difference = torch.cov(student.T) - torch.cov(teacher.T)
    correlation = torch.linalg.matrix_norm(difference) ** 2 / student.shape[1] ** 2
    return mu * (of_samples + beta * of_classes) + nu * correlation


@pytest.mark.parametrize('options', [{}, {'mu': 0.0}, {'beta': 0.0, 'nu': 0.0}, {'nu': 3.0}])
def test_value_and_gradient_are_those_of_the_plain_formula(options):
    student, teacher = make_logits()
    loss, expected = clkd_loss(student, teacher, **options), plain_loss(student, teacher, **options)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


def test_rows_do_not_see_the_size_of_a_sample_nor_columns_that_of_a_class():
    student, teacher = make_logits()
    scales = torch.tensor([0.1, 2.0, 30.0, 1.0, 0.5, 7.0], dtype=torch.float64)[:, None]
    of_rows = clkd_loss(student, teacher, beta=0.0, nu=0.0).item()
    assert clkd_loss(scales * student, teacher, beta=0.0, nu=0.0).item() == pytest.approx(of_rows)
    both = clkd_loss(student, teacher, nu=0.0).item()
    scaled = clkd_loss(scales[:5, 0] * student, teacher, nu=0.0).item()
    of_scaled_rows = clkd_loss(scales[:5, 0] * student, teacher, beta=0.0, nu=0.0).item()
    assert scaled - of_scaled_rows == pytest.approx(both - of_rows)


def test_the_correlation_does_not_see_an_offset_of_a_class():
    student, teacher = make_logits()
    expected = clkd_loss(student, teacher, mu=0.0).item()
    shifted = teacher + torch.tensor([1.0, -20.0, 3.0, 0.5, 40.0])
    assert clkd_loss(student, shifted, mu=0.0).item() == pytest.approx(expected, rel=1e-10)


def test_one_sample_has_no_correlation_of_classes():
    student, teacher = make_logits(num_samples=1)
    loss = clkd_loss(student, teacher, mu=0.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_a_second_derivative_is_refused():
    student, teacher = make_logits()
    (gradient,) = torch.autograd.grad(clkd_loss(student, teacher), student, create_graph=True)
    with pytest.raises(RuntimeError, match='twice'):
        gradient.square().sum().backward()
