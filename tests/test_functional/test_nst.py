from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch

from mmkd.functional import nst_loss


def make_maps(size: tuple[int, int], student: int = 3, teacher: int = 5):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, student + teacher, *size, generator=generator, dtype=torch.float64)
    return maps[:, :student].clone().requires_grad_(), maps[:, student:]


def kernel(ours: list[list[float]], theirs: list[list[float]]) -> float:
    values = []
    for a, b in itertools.product(ours, theirs):
        product = math.fsum(x * y for x, y in zip(a, b, strict=True))
        values.append((product / math.hypot(*a) / math.hypot(*b)) ** 2)
    return statistics.fmean(values)


@pytest.mark.parametrize('size', [(4, 3), (2, 2), (1, 1)])
def test_value_is_that_of_a_plain_loop_with_more_and_with_fewer_cells_than_channels(size):
    student, teacher = make_maps(size)
    discrepancies = [
        kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)
        for s, t in zip(student.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True)
    ]
    expected = statistics.fmean(discrepancies)
    assert nst_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize('size', [(4, 3), (2, 2)])
def test_scale_and_order_of_the_channels_do_not_matter(size):
    student, teacher = make_maps(size)
    expected = nst_loss(student, teacher).item()
    other = 9 * teacher.flip(1).repeat(1, 2, 1, 1)
    assert nst_loss(student, other).item() == pytest.approx(expected, rel=1e-10)


def test_a_channel_that_is_nowhere_active_gets_no_gradient():
    student, teacher = make_maps((4, 3))
    with torch.no_grad():
        student[:, 1] = 0
    nst_loss(student, teacher).backward()
    assert not student.grad[:, 1].any()
    assert student.grad[:, 0].any()
