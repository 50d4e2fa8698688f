from __future__ import annotations

import statistics

import pytest
import torch

from mmkd.functional import ofd_loss


def make_maps():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_value_is_that_of_a_plain_loop():
    student, teacher = make_maps()
    teacher[:, 2] = teacher[:, 2].abs()  # a channel without negative values
    total = 0.0
    for channel in range(3):
        values = teacher[:, channel].flatten().tolist()
        negative = [value for value in values if value < 0]
        margin = statistics.fmean(negative) if negative else 0.0
        for s, t in zip(student[:, channel].flatten().tolist(), values, strict=True):
            target = max(t, margin)
            if t > 0 or s > target:
                total += (s - target) ** 2
    assert ofd_loss(student, teacher).item() == pytest.approx(total / 2, rel=1e-12)


def test_only_what_exceeds_the_margin_is_pulled_down_where_the_teacher_is_negative():
    teacher = torch.full((1, 1, 1, 4), -1.0)
    teacher[..., 1] = -3.0  # the margin is -1.5
    student = torch.tensor([[[[-1.4, -1.4, -0.5, -2.0]]]], requires_grad=True)
    ofd_loss(student, teacher).backward()
    expected = torch.tensor([0.0, 2 * (-1.4 + 1.5), 2 * (-0.5 + 1.0), 0.0])
    torch.testing.assert_close(student.grad.flatten(), expected)


def test_scaling_both_maps_scales_the_value_by_the_square():
    student, teacher = make_maps()
    expected = 9 * ofd_loss(student, teacher).item()
    assert ofd_loss(3 * student, 3 * teacher).item() == pytest.approx(expected, rel=1e-12)
