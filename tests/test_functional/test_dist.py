from __future__ import annotations

import statistics

import pytest
import torch

from mmkd.functional import dist_loss


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def mixed_with_uniform(logits, shares):
    """Logits whose probabilities are ``share * p + (1 - share) / C``: a positive-affine map."""
    return (shares * logits.softmax(1) + (1 - shares) / logits.shape[1]).log()


@pytest.mark.parametrize(
    ('beta', 'gamma', 'temperature'), [(1.0, 1.0, 1.0), (2.0, 0.0, 1.0), (0.0, 3.0, 4.0)]
)
def test_value_is_the_formula(beta, gamma, temperature):
    student, teacher = make_logits()
    q = (student / temperature).softmax(1).tolist()
    p = (teacher / temperature).softmax(1).tolist()
    of_samples = [1 - statistics.correlation(*rows) for rows in zip(p, q, strict=True)]
    columns = zip(zip(*p, strict=True), zip(*q, strict=True), strict=True)
    of_classes = [1 - statistics.correlation(*pair) for pair in columns]
    expected = beta * statistics.mean(of_samples) + gamma * statistics.mean(of_classes)
    loss = dist_loss(student, teacher, beta=beta, gamma=gamma, temperature=temperature)
    assert loss.item() == pytest.approx(temperature**2 * expected, rel=1e-10)


def test_one_positive_affine_map_of_all_probabilities_changes_nothing():
    student, teacher = make_logits()
    loss = dist_loss(student, teacher)
    flatter = mixed_with_uniform(teacher, torch.tensor(0.3, dtype=torch.float64))
    assert dist_loss(student, flatter).item() == pytest.approx(loss.item(), rel=1e-10)


def test_a_map_for_every_sample_changes_only_the_relations_between_samples():
    student, teacher = make_logits()
    shares = torch.tensor([[0.1], [0.9], [0.4], [1.0], [0.6], [0.2]], dtype=torch.float64)
    flatter = mixed_with_uniform(teacher, shares)

    def parts(teacher):
        loss_of_samples = dist_loss(student, teacher, gamma=0.0)
        return loss_of_samples.item(), dist_loss(student, teacher, beta=0.0).item()

    of_samples, of_classes = parts(teacher)
    flatter_of_samples, flatter_of_classes = parts(flatter)
    assert flatter_of_samples == pytest.approx(of_samples, rel=1e-10)
    assert abs(flatter_of_classes - of_classes) > 0.01


def test_shifted_rows_change_nothing():
    student, teacher = make_logits()
    shifts = torch.tensor([[-30.0], [7.0], [0.5], [90.0], [-2.0], [11.0]], dtype=torch.float64)
    loss = dist_loss(student, teacher).item()
    assert dist_loss(student + shifts, teacher).item() == pytest.approx(loss, rel=1e-10)


def test_opposite_opinions_are_at_the_largest_distance():
    student = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert dist_loss(student, student.flip(1)).item() == pytest.approx(4.0)


def test_one_sample_has_no_relations_to_others():
    student, teacher = make_logits(num_samples=1)
    loss = dist_loss(student, teacher, beta=0.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_uniform_teacher_pulls_at_nothing(dtype):
    """Softmax leaves rounding noise in a uniform row; its direction must not be followed."""
    student, _ = make_logits(num_classes=7)
    student = student.detach().to(dtype).requires_grad_()
    teacher = torch.full((6, 7), 0.1, dtype=dtype) + torch.arange(6, dtype=dtype)[:, None]
    loss = dist_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(1.0, rel=1e-5)
    largest = student.grad.abs().max().item()
    assert largest < 100 * torch.finfo(dtype).eps
