"""Tables and the plot of a comparison of methods, made from its rows alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmkd.report.markdown import table
from mmkd.report.metrics import DASH, Columns, columns_of
from mmkd.report.results import Row
from mmkd.report.statistics import PairedDifference, mean_and_deviation, paired_difference

PLAIN = 'plain'
TEACHER = 'teacher'


def comparable(rows: Sequence[Row], split: str) -> tuple[list[Row], list[str]]:
    """The rows of a split, of each method those with the settings of its last row.

    Returns:
        These rows, and the methods of which others were left out.
    """
    of_split = sorted((row for row in rows if row.split == split), key=lambda row: row.date)
    newest = {row.method: row for row in of_split}
    kept = [row for row in of_split if row.settings == newest[row.method].settings]
    return kept, sorted({row.method for row in of_split if row not in kept})


def difference(rows: Sequence[Row], method: str) -> PairedDifference | None:
    """A method's main metric above plain training's in points, paired by seed; None if they share no seed."""
    if not rows:
        return None
    columns = columns_of(rows[0].metrics)
    ours, plain = (_points(rows, name, columns, columns.main) for name in (method, PLAIN))
    return paired_difference(ours, plain) if ours.keys() & plain.keys() else None


def family_table(rows: Sequence[Row], methods: Sequence[str], seeds: int) -> str:
    """All metrics of a family's methods: mean ± standard deviation, and the difference from plain training.

    Args:
        rows: Of the family, comparable ones.
        methods: The table's rows; one of which nothing was run stays open.
        seeds: So many are wanted of each.
    """
    columns = columns_of(rows[0].metrics if rows else {})
    header = ('Method', *columns.keys, f'{columns.main} − plain [95 %]', 'Seeds', 'Training')
    lines = []
    for method in methods:
        own = [row for row in rows if row.method == method]
        cells = [_spread(_points(rows, method, columns, column)) for column in columns.keys]
        wanted = 1 if method == TEACHER else seeds
        count = str(len(own)) if len(own) >= wanted else f'{len(own)} of {wanted}'
        times = [row.seconds for row in own if row.seconds]
        minutes = f'{sum(times) / len(times) / 60:.1f} min' if times else DASH
        compared = None if method in (PLAIN, TEACHER) else difference(rows, method)
        lines.append((method, *cells, interval(compared), count, minutes))
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
        columns = columns_of(rows[0].metrics if rows else {})
        cells = []
        for names in methods.values():
            found = [difference(rows, name) for name in names]
            shown = next((each for each in found if each is not None), None)
            text = interval(shown)
            if shown is not None and (shown.low > 0 or shown.high < 0):
                text = f'**{text}**'
            if shown is not None and shown.pairs < seeds:
                text += f' ({shown.pairs} of {seeds})'
            cells.append(text)
        plain = _spread(_points(rows, PLAIN, columns, columns.main), digits=1)
        teacher = _spread(_points(rows, TEACHER, columns, columns.main), digits=1)
        label = f'{family}, {columns.main}' if rows else family
        lines.append((label, teacher, plain, *cells))
    return table(('', TEACHER, PLAIN, *methods), lines)


def interval(shown: PairedDifference | None) -> str:
    """``+1.80 [+0.74, +2.86]``; a dash where there is nothing."""
    if shown is None:
        return DASH
    text = f'{shown.mean:+.2f}'
    return text if math.isnan(shown.low) else f'{text} [{shown.low:+.2f}, {shown.high:+.2f}]'


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
        family: [
            next((each for name in names if (each := difference(rows, name)) is not None), None)
            for names in methods.values()
        ]
        for family, rows in families.items()
    }
    found = {family: row for family, row in found.items() if any(row)}
    down, across = math.ceil(max(1, len(found)) / 4), min(4, max(1, len(found)))
    size = (2.2 * across + 1.2, (0.3 * len(methods) + 0.9) * down)
    figure = Figure(figsize=size, dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
    places = list(range(len(methods)))
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    for axes, (family, row) in zip(panels, found.items(), strict=False):
        axes.axvline(0, color='0.6', lw=1)
        for place, shown in zip(places, row, strict=True):
            if shown is None:
                continue
            half = 0 if math.isnan(shown.low) else shown.high - shown.mean
            clear = half > 0 and abs(shown.mean) > half
            colour = ('tab:green' if shown.mean > 0 else 'tab:red') if clear else '0.4'
            axes.errorbar(shown.mean, place, xerr=half, fmt='o', ms=4, capsize=3, color=colour)
        main = columns_of(families[family][0].metrics).main
        axes.set_title(family, fontsize=10)
        axes.set_xlabel(f'{main} − plain', fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis='x', alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0].set_yticks(places, list(methods))
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return figure


def _points(rows: Sequence[Row], method: str, columns: Columns, column: str) -> dict[int, float]:
    """A metric in points by seed; without the rows that have none, as where no object has the size."""
    points = {row.seed: columns.points(row.metrics, column) for row in rows if row.method == method}
    return {seed: value for seed, value in points.items() if value is not None}


def _spread(values: Mapping[int, float], digits: int = 2) -> str:
    if not values:
        return DASH
    mean, deviation = mean_and_deviation(list(values.values()))
    text = f'{mean:.{digits}f}'
    return text if math.isnan(deviation) else f'{text} ± {deviation:.{digits}f}'
