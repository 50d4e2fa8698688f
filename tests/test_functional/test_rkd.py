from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmkd.functional import rkd, rkd_loss


def make_features(num_samples: int = 6, student_width: int = 3, teacher_width: int = 7):
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(num_samples, student_width, generator=generator, dtype=torch.float64)
    teacher = 5 * torch.randn(num_samples, teacher_width, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def smooth_l1(x: float, y: float) -> float:
    return 0.5 * (x - y) ** 2 if abs(x - y) < 1 else abs(x - y) - 0.5


def loop_distances(rows: list[list[float]]) -> list[float]:
    distances = [math.dist(a, b) for a, b in itertools.product(rows, repeat=2)]
    mean = statistics.mean(distance for distance in distances if distance > 0)
    return [distance / mean for distance in distances]


def loop_cosines(rows: list[list[float]]) -> list[float]:
    cosines = []
    for a, vertex, b in itertools.product(rows, repeat=3):
        sides = [[x - y for x, y in zip(end, vertex, strict=True)] for end in (a, b)]
        lengths = [math.hypot(*side) for side in sides]
        product = sum(x * y for x, y in zip(*sides, strict=True))
        cosines.append(product / math.prod(lengths) if all(lengths) else 0.0)
    return cosines


@pytest.mark.parametrize('repeat_a_row', [False, True])
@pytest.mark.parametrize('weights', [(25.0, 50.0), (2.0, 0.0), (0.0, 3.0)])
def test_value_is_that_of_a_plain_loop(weights, repeat_a_row):
    student, teacher = make_features()
    student = student.detach()
    if repeat_a_row:
        student[4] = student[1]
        teacher[2] = teacher[5]
    terms = [
        statistics.mean(map(smooth_l1, of_pairs(student.tolist()), of_pairs(teacher.tolist())))
        for of_pairs in (loop_distances, loop_cosines)
    ]
    expected = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    assert rkd_loss(student, teacher, *weights).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('vertices', [1, 4, 6])
def test_gradient_is_the_derivative_for_any_block(vertices, monkeypatch):
    monkeypatch.setattr(rkd, '_ANGLES_AT_ONCE', 36 * vertices)
    student, teacher = make_features()
    assert torch.autograd.gradcheck(lambda features: rkd_loss(features, teacher), student)


def test_scale_offset_and_rotation_do_not_matter():
    student, teacher = make_features()
    expected = rkd_loss(student, teacher).item()
    rotation = torch.linalg.qr(teacher.T @ teacher).Q
    moved = 0.01 * teacher @ rotation + 40
    assert rkd_loss(student, moved).item() == pytest.approx(expected, rel=1e-9)
    assert rkd_loss(7 * student - 3, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_a_reached_teacher_gives_zero_in_another_space():
    _, teacher = make_features()
    student = F.pad(2 * teacher, (0, 5), value=1.0)
    assert rkd_loss(student, teacher).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('num_samples', [0, 1, 2, 5])
def test_few_or_equal_samples_give_no_nan(num_samples, dtype):
    student, teacher = (rows.detach().to(dtype) for rows in make_features(num_samples))
    for rows in (student, torch.full_like(student, 0.3), torch.zeros_like(student)):
        rows = rows.clone().requires_grad_()
        loss = rkd_loss(rows, teacher)
        loss.backward()
        assert loss.isfinite()
        assert rows.grad.isfinite().all()
        if num_samples < 2:
            assert loss.item() == 0
            assert torch.equal(rows.grad, torch.zeros_like(rows))


@pytest.mark.parametrize('distance', [1e-38, 1e-20, 1e-9, 1e-5])
def test_nearly_equal_samples_give_no_noise(distance):
    """The direction between two of them is rounding, and its derivative would grow with 1 / distance."""
    student, teacher = (rows.detach().float() for rows in make_features())
    student[4] = 0.0
    student[1] = distance
    student.requires_grad_()
    rkd_loss(student, teacher).backward()
    assert student.grad.abs().max() < 10
    same = student.detach().clone()
    same[1] = same[4]
    angles = rkd_loss(student, teacher, distance_weight=0.0).item()
    expected = rkd_loss(same, teacher, distance_weight=0.0).item()
    assert angles == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize('scale', [1e-12, 1e12])
def test_sizes_neither_overflow_nor_underflow(scale):
    student, teacher = (rows.detach().float() for rows in make_features())
    expected = rkd_loss(student, teacher).item()
    assert rkd_loss(scale * student, scale * teacher).item() == pytest.approx(expected, rel=1e-4)


class LargestTensor(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.numel())
        return result


def test_the_triples_are_never_held():
    student, teacher = make_features(128)
    with LargestTensor() as largest:
        rkd_loss(student, teacher).backward()
    assert largest.numel <= 2**18 < 128**3


def test_a_second_derivative_is_refused():
    student, teacher = make_features()
    with pytest.raises(RuntimeError, match='create_graph'):
        torch.autograd.grad(rkd_loss(student, teacher), student, create_graph=True)


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        (torch.zeros(4, 3), torch.zeros(5, 3)),
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4, 3, 2, 2), torch.zeros(4, 5, 2, 2)),
    ],
)
def test_features_that_are_no_rows_of_the_same_samples_are_an_error(student, teacher):
    with pytest.raises(ValueError, match=r'features: .*shape'):
        rkd_loss(student, teacher)
