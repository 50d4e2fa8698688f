from __future__ import annotations

import pytest
import torch

from mmkd.functional import kd_loss, quadratic_kd_loss


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_value_is_half_the_variance(temperature):
    student, teacher = make_logits()
    p = (teacher / temperature).softmax(1)
    delta = (student - teacher) / temperature
    variances = (p * delta**2).sum(1) - (p * delta).sum(1) ** 2
    loss = quadratic_kd_loss(student, teacher, temperature)
    assert loss.item() == pytest.approx(variances.mean().item() / 2, rel=1e-12)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_sigmoid_value_is_half_the_bernoulli_variances(temperature):
    student, teacher = make_logits()
    p = (teacher / temperature).sigmoid()
    delta = (student - teacher) / temperature
    expected = (p * (1 - p) * delta**2).sum(1).mean() / 2
    loss = quadratic_kd_loss(student, teacher, temperature, activation='sigmoid')
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_it_is_the_divergence_of_a_student_close_by():
    noise, teacher = make_logits()
    student = teacher + 1e-4 * noise
    divergence = kd_loss(student, teacher, temperature=1.0).item()
    assert quadratic_kd_loss(student, teacher).item() == pytest.approx(divergence, rel=1e-3)


def test_it_is_the_binary_divergence_of_a_student_close_by():
    noise, teacher = make_logits()
    student = teacher + 1e-4 * noise
    p, q = teacher.sigmoid(), student.sigmoid()
    divergences = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    loss = quadratic_kd_loss(student, teacher, activation='sigmoid')
    assert loss.item() == pytest.approx(divergences.sum(1).mean().item(), rel=1e-3)


def test_two_classes_of_a_softmax_are_one_of_a_sigmoid():
    student, teacher = make_logits(num_classes=2)
    one = quadratic_kd_loss(
        student[:, :1] - student[:, 1:], teacher[:, :1] - teacher[:, 1:], activation='sigmoid'
    )
    assert quadratic_kd_loss(student, teacher).item() == pytest.approx(one.item(), rel=1e-12)


def test_shifted_rows_change_nothing_for_a_softmax_only():
    student, teacher = make_logits()
    shifts = torch.tensor([[-30.0], [7.0], [0.5], [90.0], [-2.0], [11.0]], dtype=torch.float64)
    loss = quadratic_kd_loss(student, teacher).item()
    assert quadratic_kd_loss(student + shifts, teacher).item() == pytest.approx(loss, rel=1e-9)
    sigmoid_loss = quadratic_kd_loss(student, teacher, activation='sigmoid').item()
    assert quadratic_kd_loss(student + shifts, teacher, activation='sigmoid') > 2 * sigmoid_loss


def test_an_unknown_activation_is_an_error():
    student, teacher = make_logits()
    with pytest.raises(ValueError, match=r"activation: 'relu' is unknown: use one of softmax"):
        quadratic_kd_loss(student, teacher, activation='relu')
