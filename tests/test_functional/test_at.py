from __future__ import annotations

import math
import statistics

import pytest
import torch

from mmkd.functional import at_loss


def make_maps(student: int = 3, teacher: int = 5):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, student + teacher, 4, 3, generator=generator, dtype=torch.float64)
    return maps[:, :student].clone().requires_grad_(), maps[:, student:]


def attention(maps: list[list[list[float]]], power: float) -> list[float]:
    channels = [[abs(value) ** power for row in channel for value in row] for channel in maps]
    energy = [statistics.fmean(cell) for cell in zip(*channels, strict=True)]
    return [each / math.hypot(*energy) for each in energy]


@pytest.mark.parametrize('power', [1.0, 2.0, 4.0])
def test_value_is_that_of_a_plain_loop(power):
    student, teacher = make_maps()
    squares = [
        (s - t) ** 2
        for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True)
        for s, t in zip(attention(ours, power), attention(theirs, power), strict=True)
    ]
    loss = at_loss(student, teacher, power)
    assert loss.item() == pytest.approx(statistics.fmean(squares), rel=1e-12)


def test_scale_sign_and_number_of_channels_do_not_matter():
    student, teacher = make_maps()
    expected = at_loss(student, teacher).item()
    assert at_loss(student, 9 * teacher.repeat(1, 2, 1, 1)).item() == pytest.approx(expected)
    assert at_loss(-student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_a_map_that_is_nowhere_active_gets_no_gradient():
    student, teacher = make_maps()
    with torch.no_grad():
        student[0] = 0
    at_loss(student, teacher).backward()
    assert not student.grad[0].any()
    assert student.grad[1].any()


@pytest.mark.parametrize('power', [0.0, -2.0])
def test_powers_that_are_not_positive_are_an_error(power):
    with pytest.raises(ValueError, match=r'power: .* is not a positive number'):
        at_loss(*make_maps(), power)
