from __future__ import annotations

import itertools
import statistics

import pytest
import torch

from mmkd.functional import comparative_kd_loss


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_value_is_the_mean_over_all_pairs():
    student, teacher = make_logits()
    pairs = itertools.product(zip(student.detach(), teacher, strict=True), repeat=2)
    expected = statistics.mean(
        float(((s_i - s_j) - (t_i - t_j)).square().sum()) for (s_i, t_i), (s_j, t_j) in pairs
    )
    assert comparative_kd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_a_pair_counts_with_both_weights():
    student, teacher = make_logits()
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25], dtype=torch.float64)
    difference = (student - teacher).detach()
    squares = torch.cdist(difference, difference).square()
    expected = weights @ squares @ weights / weights.sum() ** 2
    loss = comparative_kd_loss(student, teacher, weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)


def test_a_vector_added_to_all_samples_changes_nothing():
    student, teacher = make_logits()
    expected = comparative_kd_loss(student, teacher).item()
    offset = torch.tensor([1.0, -20.0, 3.0, 0.5, 400.0])
    assert comparative_kd_loss(student + offset, teacher).item() == pytest.approx(expected)
    assert comparative_kd_loss(student, teacher - offset).item() == pytest.approx(expected)


def test_a_large_common_offset_leaves_the_digits_of_float32():
    teacher = make_logits()[1].float()
    assert comparative_kd_loss(teacher + 1000, teacher).item() < 1e-6


def test_one_sample_has_nothing_to_be_compared_with():
    student, teacher = make_logits(num_samples=1)
    loss = comparative_kd_loss(student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))
