from __future__ import annotations

import itertools
import statistics

import pytest
import torch
import torch.nn.functional as F

from mmkd.functional import cwd_loss, hcl_loss, pkd_loss


def make_levels(*sizes: tuple[int, int], num_samples: int = 2, channels: int = 3):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        [
            2 + 3 * torch.randn(num_samples, channels, *size, generator=generator).double()
            for size in sizes
        ]
        for _ in range(2)
    )
    return [level.requires_grad_() for level in student], teacher


def channel_values(features, channel: int) -> list[float]:
    return [value for sample in features.tolist() for row in sample[channel] for value in row]


def test_pkd_is_one_minus_the_correlation_of_each_channel():
    student, teacher = make_levels((5, 4), (2, 3))
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        correlations = [
            statistics.correlation(channel_values(s, channel), channel_values(t, channel))
            for channel in range(3)
        ]
        expected += 1 - statistics.mean(correlations)
    assert pkd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_pkd_is_half_the_mean_squared_error_of_standardised_maps():
    student, teacher = make_levels((5, 4))

    def standardise(features):
        variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0, keepdim=True)
        return (features - mean) / variance.sqrt()

    expected = 0.5 * F.mse_loss(standardise(student[0]), standardise(teacher[0]))
    loss = pkd_loss(student, teacher)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    (gradient,) = torch.autograd.grad(loss, student)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-8, atol=1e-14)


def test_pkd_sees_neither_offset_nor_scale_of_a_channel():
    student, teacher = make_levels((5, 4))
    scale = torch.tensor([0.1, 3.0, 40.0], dtype=torch.float64)[:, None, None]
    offset = torch.tensor([-5.0, 0.0, 60.0], dtype=torch.float64)[:, None, None]
    loss = pkd_loss(student, teacher).item()
    assert pkd_loss(student, [scale * teacher[0] + offset]).item() == pytest.approx(loss, rel=1e-9)
    assert pkd_loss(student, [-teacher[0]]).item() == pytest.approx(2 - loss, rel=1e-9)


def test_pkd_of_a_dead_channel_is_finite_and_pulls_at_nothing():
    student, teacher = make_levels((5, 4))
    teacher[0][:, 1] = 0.1
    pkd_loss(student, teacher).backward()
    (gradient,) = (level.grad for level in student)
    assert gradient.isfinite().all()
    assert gradient[:, 1].abs().max() < 1e-15
    assert gradient[:, 0].abs().max() > 1e-3


def test_pkd_of_a_large_float32_map_is_accurate():
    student, teacher = make_levels((100, 168), num_samples=2, channels=2)
    expected = pkd_loss(student, teacher).item()
    narrow = pkd_loss([student[0].float() + 50], [teacher[0].float()])
    assert narrow.item() == pytest.approx(expected, rel=1e-4)


def pooled(grid: list[list[float]], size: int) -> list[list[float]]:
    """By its definition: bin i of n covers rows floor(i h / n) to ceil((i + 1) h / n)."""

    def bounds(index: int, length: int) -> range:
        return range(index * length // size, -(-(index + 1) * length // size))

    height, width = len(grid), len(grid[0])
    return [
        [
            statistics.fmean(grid[y][x] for y in bounds(i, height) for x in bounds(j, width))
            for j in range(size)
        ]
        for i in range(size)
    ]


@pytest.mark.parametrize(
    ('size', 'weights'),
    [
        ((9, 7), {4: 1 / 2, 2: 1 / 4, 1: 1 / 8}),
        ((5, 5), {4: 1 / 2, 2: 1 / 4, 1: 1 / 8}),
        ((4, 9), {2: 1 / 2, 1: 1 / 4}),
        ((9, 4), {4: 1 / 2, 2: 1 / 4, 1: 1 / 8}),
        ((9, 2), {4: 1 / 2, 2: 1 / 4, 1: 1 / 8}),
        ((3, 3), {2: 1 / 2, 1: 1 / 4}),
        ((2, 2), {1: 1 / 2}),
        ((1, 4), {}),
        ((4, 1), {2: 1 / 2, 1: 1 / 4}),
    ],
)
def test_hcl_is_the_formula(size, weights):
    student, teacher = make_levels(size)
    squares = {pool: [] for pool in (None, *weights)}
    for s, t in zip(
        student[0].flatten(0, 1).tolist(), teacher[0].flatten(0, 1).tolist(), strict=True
    ):
        for pool, values in squares.items():
            s_grid, t_grid = (s, t) if pool is None else (pooled(s, pool), pooled(t, pool))
            values += [
                (a - b) ** 2
                for s_row, t_row in zip(s_grid, t_grid, strict=True)
                for a, b in zip(s_row, t_row, strict=True)
            ]
    expected = statistics.fmean(squares[None])
    expected += sum(w * statistics.fmean(squares[pool]) for pool, w in weights.items())
    expected /= 1 + sum(weights.values())
    assert hcl_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_hcl_of_a_constant_difference_is_its_square():
    """Pooling keeps a constant, and the weights are divided by their sum."""
    _, teacher = make_levels((9, 7), (3, 2))
    student = [level + 1.5 for level in teacher]
    assert hcl_loss(student, teacher).item() == pytest.approx(2 * 1.5**2, rel=1e-10)


@pytest.mark.parametrize('loss', [pkd_loss, hcl_loss])
def test_levels_add_up(loss):
    student, teacher = make_levels((9, 7), (5, 4), (1, 1))
    alone = [loss([s], [t]).item() for s, t in zip(student, teacher, strict=True)]
    assert loss(student, teacher).item() == pytest.approx(sum(alone), rel=1e-12)


@pytest.mark.parametrize('loss', [pkd_loss, hcl_loss])
def test_features_that_are_no_levels_are_an_error(loss):
    student, teacher = make_levels((5, 4), (3, 2))
    with pytest.raises(ValueError, match='2 levels of the student and 1 of the teacher'):
        loss(student, teacher[:1])
    with pytest.raises(ValueError, match='0 levels of the student'):
        loss([], [])
    with pytest.raises(ValueError, match='one tensor is not a sequence of levels'):
        loss(student[0], teacher[0])
    with pytest.raises(ValueError, match='features of level 1: the student has shape'):
        loss(student, [teacher[0], teacher[1][:, :2]])


def make_pair_of_maps(batch: int = 2):
    generator = torch.Generator().manual_seed(0)
    shape = (2, batch, 3, 4, 5)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize('temperature', [1.0, 10.0])
def test_cwd_is_the_divergence_of_each_channel_over_space(temperature):
    student, teacher = make_pair_of_maps()
    total = 0.0
    for image, channel in itertools.product(range(2), range(3)):
        p = (teacher[image, channel] / temperature).exp()
        q = (student[image, channel] / temperature).exp()
        p, q = p / p.sum(), q / q.sum()
        total += (p * (p / q).log()).sum().item()
    expected = temperature**2 * total / (3 * 2)
    assert cwd_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_cwd_does_not_see_the_offset_of_a_channel():
    student, teacher = make_pair_of_maps()
    offsets = torch.tensor([5.0, -70.0, 0.3])[:, None, None]
    expected = cwd_loss(student, teacher, 4.0).item()
    assert cwd_loss(student + offsets, teacher, 4.0).item() == pytest.approx(expected, rel=1e-10)


def test_cwd_of_a_single_cell_is_zero():
    student, teacher = (maps[:, :, :1, :1] for maps in make_pair_of_maps())
    assert cwd_loss(student, teacher, 4.0).item() == 0
