"""The picture of a comparison: detections side by side, class similarities, and a metric against the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import mmcv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from mmkd.report.detections import Objects, Scene, match

_TILE_INCHES = 2.6
_CURVE_INCHES = 3.2
_DASHED = (0, (3, 2))


def draw_report(
    path: str | Path,
    similarities: Mapping[str, np.ndarray],
    curves: Mapping[str, Mapping[int, float]],
    metric: str,
    scenes: Sequence[Scene] = (),
    detections: Mapping[str, Mapping[int, Objects]] | None = None,
    classes: Sequence[str] = (),
    score_threshold: float = 0.3,
) -> Figure:
    """Draw detections of several models beside the annotations, and below what they make of the classes.

    A row per image: the annotated objects, then each model's detections. A colour is a class; a solid box is right, a
    dashed one wrong (no object of that class there, or found already), a dotted white one an object that was missed.
    Then the models' class similarities, and their curves.

    Args:
        path: The PNG file to write.
        similarities: By name of the model, its (C, C) class similarities in [-1, 1]; the teacher's come first.
        curves: By name, the metric in points by epoch.
        metric: What the curves show.
        scenes: The images.
        detections: By name of the model, its detections by image id, the most certain first.
        classes: Names of the classes in the order of the labels.
        score_threshold: The score that the detections were cut at, to be named in the picture.

    Returns:
        The figure: a panel per image and column, row by row, those of the similarities, and that of the curves.
    """
    detections = detections or {}
    columns, rows = 1 + len(similarities), len(scenes) + 1
    heights = [_TILE_INCHES] * rows + [_CURVE_INCHES]
    size = (columns * _TILE_INCHES, sum(heights) + 0.1 * rows + 1.0)
    figure = Figure(figsize=size, dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=heights)
    hues = np.linspace(0, 1, len(classes), endpoint=False)
    colours = matplotlib.colormaps['tab10' if len(classes) <= 10 else 'hsv'](hues)
    for row, scene in enumerate(scenes):
        for column, name in enumerate(('ground truth', *detections)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(mmcv.imread(str(scene.path), channel_order='rgb'), interpolation='bicubic')
            axes.set_axis_off()
            found = detections[name][scene.id] if column else None
            title = _draw_objects(axes, scene.objects, found, colours)
            axes.set_title(f'{name}\n{title}' if row == 0 else title, fontsize=9)
    _draw_similarities(figure, grid[rows - 1, :], similarities, classes)
    _draw_curves(figure.add_subplot(grid[rows, :]), curves, metric)
    if scenes:
        kinds = {'found, class right': '-', 'false': _DASHED, 'missed': ':'}
        lines = [Line2D([], [], color='0.3', ls=style, label=name) for name, style in kinds.items()]
        lines += [
            Line2D([], [], color=colour, lw=5, label=name)
            for name, colour in zip(classes, colours, strict=True)
        ]
        title = f'detections with a score of {score_threshold:g} or more, IoU at least 0.5'
        place = 'outside lower center'
        figure.legend(handles=lines, title=title, loc=place, ncols=2 * columns - 1, frameon=False)
    figure.savefig(path)
    return figure


def _draw_objects(axes: Axes, objects: Objects, found: Objects | None, colours: Any) -> str:
    """Draw the boxes of the annotation, or of what was found, the most certain on top; what is drawn, in words."""
    if found is None:
        for box, label in zip(objects.boxes, objects.labels, strict=True):
            _draw_box(axes, box, colours[label], '-')
        return f'{len(objects)} object{"s" * (len(objects) != 1)}'
    correct, seen = match(found, objects)
    for box in objects.boxes[~seen]:
        _draw_box(axes, box, 'white', ':')
    for index in reversed(range(len(found))):
        style = '-' if correct[index] else _DASHED
        _draw_box(axes, found.boxes[index], colours[found.labels[index]], style)
    return f'{seen.sum()} of {len(seen)} found, {(~correct).sum()} false'


def _draw_box(axes: Axes, box: np.ndarray, colour: Any, style: Any) -> None:
    # A box along the image's edge is shown at full width; images have any colour, so a box has a dark rim.
    look: dict[str, Any] = dict(fill=False, ec=colour, ls=style, lw=1.8, clip_on=False)
    rim = [withStroke(linewidth=3.2, foreground='#202020')]
    left, top, right, bottom = box
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, path_effects=rim, **look))


def _draw_similarities(
    figure: Figure, place: Any, similarities: Mapping[str, np.ndarray], classes: Sequence[str]
) -> None:
    """How far each model is from the first, and the matrices."""
    panels = place.subgridspec(1, 1 + len(similarities)).subplots()
    (teacher, reference), *others = similarities.items()
    distances = {name: float(np.abs(matrix - reference).mean()) for name, matrix in others}
    bars = panels[0].barh(list(distances), list(distances.values()), color='0.6', height=0.5)
    panels[0].bar_label(bars, fmt='%.3f', padding=3, fontsize=9)
    panels[0].invert_yaxis()
    panels[0].margins(x=0.25)
    panels[0].set_title(f"mean |difference|\nfrom the {teacher}'s similarities", fontsize=9)
    panels[0].spines[['top', 'right']].set_visible(False)
    for axes, (name, matrix) in zip(panels[1:], similarities.items(), strict=True):
        shown = axes.imshow(matrix, cmap='RdBu_r', vmin=-1, vmax=1, interpolation='nearest')
        axes.set_title(f'{name}:\nsimilarity of its class logits', fontsize=9)
        axes.set(xticks=[], yticks=[])
    if 0 < len(classes) <= 12:
        panels[1].set_yticks(range(len(classes)), classes, fontsize=6)
    figure.colorbar(shown, ax=list(panels[1:]), shrink=0.8, pad=0.01)


def _draw_curves(axes: Axes, curves: Mapping[str, Mapping[int, float]], metric: str) -> None:
    """Draw a metric in points against the epoch, and name each curve's last value."""
    for name, curve in curves.items():
        if curve:
            axes.plot(
                [*curve], [*curve.values()], marker='o', label=f'{name} {curve[max(curve)]:.1f}'
            )
    axes.locator_params(axis='x', integer=True)
    axes.set(xlabel='epoch', ylabel=metric, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    if any(curves.values()):
        axes.legend(loc='upper left', frameon=False)
