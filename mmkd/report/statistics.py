"""Statistics for a comparison of methods over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class PairedDifference:
    """A method minus a baseline, seed by seed.

    Attributes:
        mean: mean of the differences.
        low: lower end of the Student-t interval, NaN for fewer than two pairs.
        high: its upper end.
        pairs: number of seeds that both have.
    """

    mean: float
    low: float
    high: float
    pairs: int


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation (divisor n - 1; NaN for a single value).

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError('values: there is none to take the mean of')
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), deviation


def paired_difference(
    method: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95
) -> PairedDifference:
    """The mean of ``method[seed] - baseline[seed]`` and its Student-t confidence interval.

    With n pairs of mean d and sample standard deviation s the interval is
    d ± t((1 + confidence) / 2, n - 1) · s / √n.

    Args:
        method: value by seed.
        baseline: value by seed. Seeds that only one of the two has are left out.
        confidence: the probability in (0, 1) that the interval is to cover.

    Raises:
        ValueError: no seed is in both, or ``confidence`` is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f'confidence must lie between 0 and 1, not be {confidence}')
    seeds = sorted(set(method) & set(baseline))
    if not seeds:
        raise ValueError(f'no seed in common: {sorted(method)} and {sorted(baseline)}')
    mean, deviation = mean_and_deviation([method[seed] - baseline[seed] for seed in seeds])
    n = len(seeds)
    half = math.nan if n == 1 else stats.t.ppf((1 + confidence) / 2, n - 1) * deviation / n**0.5
    return PairedDifference(mean, float(mean - half), float(mean + half), n)
