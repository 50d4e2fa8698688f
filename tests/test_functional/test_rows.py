from __future__ import annotations

import math

import pytest
import torch

from mmkd.functional import center_rows, standardize_rows, unit_rows

ALL = (center_rows, standardize_rows, unit_rows)


@pytest.fixture
def logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator, dtype=torch.float64)


def test_center_rows_against_a_loop(logits):
    expected = [[z - sum(row) / len(row) for z in row] for row in logits.tolist()]
    torch.testing.assert_close(center_rows(logits), torch.tensor(expected, dtype=torch.float64))


def test_standardize_rows_against_a_loop(logits):
    expected = []
    for row in logits.tolist():
        mean = sum(row) / len(row)
        std = math.sqrt(sum((z - mean) ** 2 for z in row) / (len(row) - 1))
        expected.append([(z - mean) / (std + 0.1) for z in row])
    torch.testing.assert_close(
        standardize_rows(logits, eps=0.1), torch.tensor(expected, dtype=torch.float64)
    )


def test_standardize_rows_forgets_shift_and_scale(logits):
    torch.testing.assert_close(
        standardize_rows(3.0 * logits - 7.0), standardize_rows(logits), rtol=1e-6, atol=1e-6
    )


def test_unit_rows_against_a_loop(logits):
    expected = [[z / math.sqrt(sum(x * x for x in row)) for z in row] for row in logits.tolist()]
    torch.testing.assert_close(unit_rows(logits), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize('function', ALL)
def test_gradcheck(function, logits):
    assert torch.autograd.gradcheck(function, logits.requires_grad_())


@pytest.mark.parametrize('function', ALL)
@pytest.mark.parametrize('leading', [(), (0,), (2, 3)])
def test_works_along_the_last_dimension(function, leading):
    logits = torch.randn(*leading, 4)
    rows = function(logits)
    assert rows.shape == logits.shape
    for index, row in enumerate(logits.reshape(-1, 4)):
        torch.testing.assert_close(rows.reshape(-1, 4)[index], function(row))


@pytest.mark.parametrize('function', ALL)
@pytest.mark.parametrize(
    ('given', 'returned'),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(function, given, returned):
    logits = torch.linspace(-100, 100, 30).reshape(3, 10).to(given).requires_grad_()
    rows = function(logits)
    rows.square().sum().backward()
    assert rows.dtype == returned
    assert logits.grad.dtype == given
    assert rows.isfinite().all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize('function', [center_rows, standardize_rows])
@pytest.mark.parametrize('value', [0.0, -4.595119953155518, 100.1])
def test_constant_rows_give_exact_zeros_and_finite_gradients(function, value):
    logits = torch.full((2, 91), value, requires_grad=True)
    rows = function(logits)
    (rows * torch.randn(2, 91)).sum().backward()
    assert torch.equal(rows, torch.zeros(2, 91))
    # The derivative of centring is at most 1, whatever the row.
    assert logits.grad.abs().max() < 10


def test_zero_rows_stay_zero_with_zero_gradient():
    logits = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    rows = unit_rows(logits)
    rows[:, 0].sum().backward()
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [0.128, -0.096]]))


@pytest.mark.parametrize('function', ALL)
def test_nan_is_not_hidden(function):
    logits = torch.tensor([[math.nan, 1.0, 2.0], [1.0, 2.0, 4.0]])
    rows = function(logits)
    assert rows[0].isnan().all()
    assert rows[1].isfinite().all()


def test_standardize_rows_needs_two_logits():
    with pytest.raises(ValueError, match='rows of 1 logits have no standard deviation'):
        standardize_rows(torch.zeros(3, 1))
