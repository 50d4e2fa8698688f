"""Tables and the plot of a comparison of methods, made from its rows alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from mmkd.report.markdown import table
from mmkd.report.metrics import DASH, main_column, points
from mmkd.report.results import Row

PLAIN = 'plain'
TEACHER = 'teacher'


@dataclass(frozen=True)
class PairedDifference:
    """A method minus plain training, seed by seed.

    Attributes:
        mean: Of the differences.
        low: Lower end of Student's t interval at 95 %, mean - t(0.975, n - 1) · s / √n; NaN for a single pair.
        high: Its upper end.
        pairs: n, the number of seeds that both have.
    """

    mean: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        """``+1.80 [+0.74, +2.86]``."""
        interval = '' if math.isnan(self.low) else f' [{self.low:+.2f}, {self.high:+.2f}]'
        return f'{self.mean:+.2f}{interval}'


def comparable(rows: Sequence[Row], split: str) -> tuple[list[Row], list[str]]:
    """The rows of a split, of each method those with the settings of its last row.

    Returns:
        These rows, and the methods of which others were left out.
    """
    of_split = sorted((row for row in rows if row.split == split), key=lambda row: row.date)
    newest = {row.method: row for row in of_split}
    kept = [row for row in of_split if row.settings == newest[row.method].settings]
    return kept, sorted({row.method for row in of_split if row not in kept})


def difference(rows: Sequence[Row], methods: Sequence[str]) -> PairedDifference | None:
    """The main metric of the first of some methods with a row, above plain training's, in points, paired by seed.

    None if none of them shares a seed with plain training.
    """
    plain = _points(rows, PLAIN)
    for method in methods:
        ours = _points(rows, method)
        if both := ours.keys() & plain.keys():
            differences = [ours[seed] - plain[seed] for seed in both]
            mean, n = statistics.fmean(differences), len(both)
            deviation = statistics.stdev(differences) if n > 1 else math.nan
            half = float(stats.t.ppf(0.975, n - 1)) * deviation / n**0.5
            return PairedDifference(mean, mean - half, mean + half, n)
    return None


def family_table(rows: Sequence[Row], methods: Sequence[str], seeds: int) -> str:
    """All metrics of a family's methods: mean ± standard deviation, and the difference from plain training.

    Args:
        rows: Of the family, comparable ones.
        methods: The table's rows; one of which nothing was run stays open.
        seeds: So many are wanted of each.
    """
    columns = list(points(rows[0].metrics if rows else {}))
    header = ('Method', *columns, f'{columns[0]} − plain [95 %]', 'Seeds', 'Training')
    lines = []
    for method in methods:
        own = [row for row in rows if row.method == method]
        cells = [_spread(_points(rows, method, column)) for column in columns]
        wanted = 1 if method == TEACHER else seeds
        count = str(len(own)) if len(own) >= wanted else f'{len(own)} of {wanted}'
        times = [row.seconds for row in own if row.seconds]
        minutes = f'{statistics.fmean(times) / 60:.1f} min' if times else DASH
        compared = None if method in (PLAIN, TEACHER) else difference(rows, [method])
        lines.append((method, *cells, str(compared or DASH), count, minutes))
    return table(header, lines)


def difference_table(
    families: Mapping[str, Sequence[Row]], methods: Mapping[str, Sequence[str]], seeds: int
) -> str:
    """Families down, methods across: differences from plain training; bold where the interval is above or below 0.

    Args:
        families: Comparable rows by family.
        methods: By header, the methods that share the column: the first of which there is a row is shown.
        seeds: So many are wanted; fewer are said.
    """
    lines = []
    for family, rows in families.items():
        cells = [_spread(_points(rows, method), digits=1) for method in (TEACHER, PLAIN)]
        for shown in (difference(rows, names) for names in methods.values()):
            if shown is None:
                cells.append(DASH)
                continue
            bold = '**' * (shown.low > 0 or shown.high < 0)
            few = f' ({shown.pairs} of {seeds})' * (shown.pairs < seeds)
            cells.append(f'{bold}{shown}{bold}{few}')
        main = f', {main_column(rows[0].metrics)}' if rows else ''
        lines.append((family + main, *cells))
    return table(('', TEACHER, PLAIN, *methods), lines)


def draw_differences(
    path: str | Path,
    families: Mapping[str, Sequence[Row]],
    methods: Mapping[str, Sequence[str]],
) -> Figure:
    """A panel per family: the methods' differences from plain training with their intervals.

    Args:
        path: The image file to write.
        families: Comparable rows by family; one without a difference gets no panel.
        methods: See :func:`difference_table`.
    """
    found = {
        family: [difference(rows, names) for names in methods.values()]
        for family, rows in families.items()
    }
    found = {family: row for family, row in found.items() if any(row)}
    down, across = math.ceil(max(1, len(found)) / 4), min(4, max(1, len(found)))
    size = (2.2 * across + 1.2, (0.3 * len(methods) + 0.9) * down)
    figure = Figure(figsize=size, dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    for axes, (family, row) in zip(panels, found.items(), strict=False):
        axes.axvline(0, color='0.6', lw=1)
        for place, shown in enumerate(row):
            if shown is not None:
                half = 0 if math.isnan(shown.low) else shown.high - shown.mean
                clear = 0 < half < abs(shown.mean)
                colour = ('tab:green' if shown.mean > 0 else 'tab:red') if clear else '0.4'
                axes.errorbar(shown.mean, place, xerr=half, fmt='o', ms=4, capsize=3, color=colour)
        axes.set_title(family, fontsize=10)
        axes.set_xlabel(f'{main_column(families[family][0].metrics)} − plain', fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis='x', alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0].set_yticks(range(len(methods)), list(methods))
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return figure


def _points(rows: Sequence[Row], method: str, column: str | None = None) -> dict[int, float]:
    """The main or another metric in points by seed, without the rows in which there was nothing to measure."""
    found = {
        row.seed: points(row.metrics)[column or main_column(row.metrics)]
        for row in rows
        if row.method == method
    }
    return {seed: value for seed, value in found.items() if value is not None}


def _spread(values: Mapping[int, float], digits: int = 2) -> str:
    if not values:
        return DASH
    mean = f'{statistics.fmean(values.values()):.{digits}f}'
    return f'{mean} ± {statistics.stdev(values.values()):.{digits}f}' if len(values) > 1 else mean
