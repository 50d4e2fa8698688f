from __future__ import annotations

import math

import pytest

from mmkd.report import mean_and_deviation, paired_difference


def test_mean_and_sample_deviation_by_hand() -> None:
    # Squared deviations from 4: 4, 0, 4; their sum over n - 1 = 2 is 4.
    assert mean_and_deviation([2.0, 4.0, 6.0]) == (4.0, 2.0)


def test_one_value_has_no_deviation_and_none_no_mean() -> None:
    mean, deviation = mean_and_deviation([3.0])
    assert mean == 3
    assert math.isnan(deviation)
    with pytest.raises(ValueError, match='there is none'):
        mean_and_deviation([])


def test_interval_by_hand() -> None:
    # Differences 1, 2, 3, 4, 5: mean 3, deviation √2.5; t(0.975, 4) = 2.7764 from a printed table.
    plain = {0: 10.0, 1: 20.0, 2: 30.0, 3: 40.0, 4: 50.0}
    method = {seed: value + seed + 1 for seed, value in plain.items()}
    result = paired_difference(method, plain)
    half = 2.7764 * math.sqrt(2.5) / math.sqrt(5)
    assert result.mean == pytest.approx(3)
    assert result.low == pytest.approx(3 - half, abs=1e-4)
    assert result.high == pytest.approx(3 + half, abs=1e-4)
    assert result.pairs == 5


def test_more_confidence_is_a_wider_interval_by_the_table() -> None:
    # t(0.995, 1) = 63.657; differences 0 and 2 have a standard error of 1.
    result = paired_difference({0: 0.0, 1: 2.0}, {0: 0.0, 1: 0.0}, confidence=0.99)
    assert result.high - result.mean == pytest.approx(63.657, abs=1e-3)


def test_seeds_are_paired_by_number_and_lone_ones_left_out() -> None:
    # Paired by position the differences would be -1 and 1.
    result = paired_difference({2: 5.0, 1: 3.0, 7: 99.0}, {1: 2.0, 2: 4.0, 8: -99.0})
    assert (result.mean, result.low, result.high, result.pairs) == (1.0, 1.0, 1.0, 2)


def test_one_pair_has_no_interval() -> None:
    result = paired_difference({0: 2.0}, {0: 1.0})
    assert result.mean == 1
    assert math.isnan(result.low)
    assert math.isnan(result.high)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match='no seed in common'):
        paired_difference({0: 1.0}, {1: 1.0})
    with pytest.raises(ValueError, match='confidence'):
        paired_difference({0: 1.0}, {0: 1.0}, confidence=95)
