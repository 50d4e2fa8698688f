from __future__ import annotations

import math

import pytest
import torch

from mmkd.functional import crd_loss, unit_rows


def make_problem():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    bank = unit_rows(torch.randn(9, 3, generator=generator, dtype=torch.float64))
    negatives = torch.randint(9, (4, 5), generator=generator)
    counted = torch.rand(4, 5, generator=generator) > 0.3
    return student.requires_grad_(), teacher, bank, negatives, counted


def formula(student, teacher, bank, negatives, temperature, counted=None, mean=None):
    """The posterior P / (P + K / M) with P = exp(score) / Z and Z = M mean(exp(score)), number by number."""

    def exponential(a, b):
        cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
        return math.exp(cosine / temperature)

    rows = list(zip(student.tolist(), teacher.tolist(), negatives.tolist(), strict=True))
    scores = [
        [exponential(s, t), *(exponential(s, bank[k].tolist()) for k in ks)] for s, t, ks in rows
    ]
    if mean is None:
        mean = sum(map(sum, scores)) / sum(map(len, scores))
    size, number = len(bank), negatives.shape[1]
    total = 0.0
    for i, (positive, *others) in enumerate(scores):
        p = positive / (size * mean)
        total -= math.log(p / (p + number / size))
        for k, other in enumerate(others):
            if counted is None or counted[i, k]:
                p = other / (size * mean)
                total -= math.log(number / size / (p + number / size))
    return total / len(scores)


@pytest.mark.parametrize('temperature', [0.07, 1.0])
def test_value_is_the_formula(temperature):
    student, teacher, bank, negatives, counted = make_problem()
    loss = crd_loss(student, teacher, bank, negatives, temperature)
    expected = formula(student, teacher, bank, negatives, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    loss = crd_loss(student, teacher, bank, negatives, temperature, counted)
    expected = formula(student, teacher, bank, negatives, temperature, counted)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_the_mean_is_kept_from_the_first_step_on():
    student, teacher, bank, negatives, _ = make_problem()
    log_mean = torch.full((1,), torch.nan, dtype=torch.float64)
    empty = torch.zeros(0, 3)
    crd_loss(empty, empty, bank, negatives[:0], log_mean=log_mean)
    assert log_mean.isnan()
    first = crd_loss(student, teacher, bank, negatives, log_mean=log_mean)
    assert torch.equal(first, crd_loss(student, teacher, bank, negatives))
    kept = log_mean.clone()
    second = crd_loss(-student, teacher, bank, negatives, log_mean=log_mean)
    assert torch.equal(log_mean, kept)
    expected = formula(-student, teacher, bank, negatives, 0.07, mean=kept.exp().item())
    assert second.item() == pytest.approx(expected, rel=1e-10)


def test_gradient_is_the_derivative_where_the_mean_is_given():
    student, teacher, bank, negatives, counted = make_problem()
    log_mean = torch.full((1,), 2.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: crd_loss(s, teacher, bank, negatives, 0.5, counted, log_mean), student
    )


def test_lengths_do_not_matter():
    student, teacher, bank, negatives, _ = make_problem()
    loss = crd_loss(3 * student, 0.2 * teacher, bank, negatives)
    assert loss.item() == pytest.approx(crd_loss(student, teacher, bank, negatives).item())


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('bank', dict(bank=torch.zeros(9, 2))),
        ('negatives', dict(negatives=torch.zeros(3, 5).long())),
        ('negatives', dict(negatives=torch.zeros(4, 0).long())),
        ('counted', dict(counted=torch.ones(4, 4).bool())),
    ],
)
def test_other_shapes_are_an_error(name, change):
    student, teacher, bank, negatives, _ = make_problem()
    with pytest.raises(ValueError, match=f'{name}: shape'):
        crd_loss(student, teacher, **(dict(bank=bank, negatives=negatives) | change))
