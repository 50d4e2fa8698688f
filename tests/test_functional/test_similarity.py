from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch

from mmkd.functional import ickd_loss, pkt_loss, sp_loss


def make_maps(num_samples: int = 5, student: int = 3, teacher: int = 4, size: tuple = (2, 3)):
    generator = torch.Generator().manual_seed(0)

    def draw(channels: int) -> torch.Tensor:
        shape = (num_samples, channels, *size)
        return 1 + 3 * torch.randn(shape, generator=generator, dtype=torch.float64)

    return draw(student).requires_grad_(), draw(teacher)


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def unit(row: list[float]) -> list[float]:
    return [x / math.hypot(*row) for x in row]


def unit_gram(vectors: list[list[float]]) -> list[list[float]]:
    return [unit([dot(a, b) for b in vectors]) for a in vectors]


def squares(ours: list[list[float]], theirs: list[list[float]]) -> list[float]:
    pairs = zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True)
    return [(x - y) ** 2 for x, y in pairs]


@pytest.mark.parametrize('pooled', [False, True])
def test_sp_is_that_of_a_plain_loop(pooled):
    student, teacher = make_maps()
    if pooled:
        student, teacher = student.mean((2, 3)), teacher.mean((2, 3))
    grams = [unit_gram(features.flatten(1).tolist()) for features in (student, teacher)]
    expected = statistics.fmean(squares(*grams))
    assert sp_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_sp_compares_maps_of_any_size_and_scale():
    student, teacher = make_maps()
    expected = sp_loss(student, teacher).item()
    assert sp_loss(7 * student, 0.01 * teacher).item() == pytest.approx(expected, rel=1e-10)
    assert sp_loss(student, teacher[..., None].flatten(2, 3)).item() == pytest.approx(expected)
    wider = teacher.repeat(1, 2, 1, 1)
    assert sp_loss(student, wider).item() == pytest.approx(expected, rel=1e-10)


def test_sp_of_a_sample_without_features_is_finite():
    student, teacher = make_maps()
    with torch.no_grad():
        student[1] = 0
    loss = sp_loss(student, teacher)
    loss.backward()
    assert loss > 0
    assert student.grad.isfinite().all()


def neighbours(vectors: list[list[float]]) -> list[list[float]]:
    similarities = [[dot(unit(a), unit(b)) / 2 + 0.5 + 1e-7 for b in vectors] for a in vectors]
    return [[each / math.fsum(row) for each in row] for row in similarities]


def test_pkt_is_that_of_a_plain_loop():
    student, teacher = (maps.mean((2, 3)) for maps in make_maps())
    q, p = (itertools.chain(*neighbours(rows.tolist())) for rows in (student, teacher))
    expected = statistics.fmean(t * math.log(t / s) for t, s in zip(p, q, strict=True))
    assert pkt_loss(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_pkt_does_not_see_scale_and_width():
    student, teacher = (maps.mean((2, 3)) for maps in make_maps())
    expected = pkt_loss(student, teacher).item()
    scaled = pkt_loss(7 * student, 0.01 * teacher.repeat(1, 2))
    assert scaled.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_pkt_of_opposite_and_of_empty_features_is_finite(dtype):
    teacher = torch.randn(64, generator=torch.Generator().manual_seed(0)).to(dtype)
    teacher = torch.stack([teacher, -teacher, 3 * teacher, 0 * teacher])
    student = teacher.flip(0).clone().requires_grad_()
    loss = pkt_loss(student, teacher)
    loss.backward()
    assert loss > 0.01
    assert student.grad.isfinite().all()


def test_ickd_is_that_of_a_plain_loop():
    student, teacher = make_maps(student=3, teacher=3)
    expected = [
        (x - y) ** 2
        for image in range(5)
        for ours, theirs in zip(
            *(unit_gram(maps[image].flatten(1).tolist()) for maps in (student, teacher)),
            strict=True,
        )
        for x, y in zip(ours, theirs, strict=True)
    ]
    loss = ickd_loss(student, teacher)
    assert loss.item() == pytest.approx(math.fsum(expected) / (5 * 3), rel=1e-12)


def test_ickd_does_not_see_where_a_map_is_active():
    student, teacher = make_maps(student=3, teacher=3)
    moved = 4 * teacher.flip(3).roll(1, 2)
    expected = ickd_loss(student, teacher).item()
    assert ickd_loss(student, moved).item() == pytest.approx(expected, rel=1e-10)
