from __future__ import annotations

import pytest
import torch

from mmkd.functional import cc_loss


def make_features(num_samples: int = 5):
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, num_samples, 3, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_value_is_that_of_a_plain_loop():
    student, teacher = make_features()
    s, t = student.tolist(), teacher.tolist()
    total = 0.0
    for i in range(4):
        for c in range(3):
            total += abs(s[i][c] - t[i][c]) * abs(s[i + 1][c] - t[i + 1][c])
    assert cc_loss(student, teacher).item() == pytest.approx(total / 4, rel=1e-12)


def test_neighbours_share_their_errors():
    student, teacher = make_features()
    (gradient,) = torch.autograd.grad(cc_loss(student, teacher), student)
    s, t = student.detach(), teacher
    around = (s[1] - t[1]).abs() + (s[3] - t[3]).abs()
    torch.testing.assert_close(gradient[2], (s[2] - t[2]).sign() * around / 4)


def test_a_single_sample_gives_zero():
    student, teacher = make_features(1)
    loss = cc_loss(student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))
