"""The picture of a comparison: detections side by side, and a metric against the epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from mmkd.report.detections import Objects, Scene, match

_TILE_INCHES = 2.6
_CURVE_INCHES = 3.2
_DPI = 110


def draw_report(
    path: str | Path,
    scenes: Sequence[Scene],
    detections: Mapping[str, Mapping[int, Objects]],
    classes: Sequence[str],
    curves: Mapping[str, Mapping[int, float]],
    score_threshold: float,
    metric: str = 'COCO mAP (validation)',
) -> Figure:
    """Draw detections of several models beside the annotations, and their curves below.

    One row per image: first the annotated objects, then each model's detections. A colour is a
    class; a solid box is right, a dashed one wrong (no object of that class there, or found
    already), a dotted white one an object that was missed.

    Args:
        path: the PNG file to write.
        scenes: the images, one row each.
        detections: by name of the model, its detections by image id, the most certain first.
        classes: names of the classes in the order of the labels.
        curves: by name, the metric by epoch.
        score_threshold: the score that the detections were cut at, to be named in the picture.
        metric: what the curves show.

    Returns:
        The figure: one panel per image and column, row by row, and the panel of the curves.
    """
    columns = 1 + len(detections)
    height = len(scenes) * (_TILE_INCHES + 0.1) + _CURVE_INCHES + 1.0
    figure = Figure(figsize=(columns * _TILE_INCHES, height), dpi=_DPI, layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(scenes) + 1, columns, height_ratios=[_TILE_INCHES] * len(scenes) + [_CURVE_INCHES]
    )
    for row, scene in enumerate(scenes):
        image = cv2.imread(str(scene.path))
        if image is None:
            raise FileNotFoundError(f'{scene.path}: no such image')
        for column, name in enumerate(('ground truth', *detections)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image[..., ::-1], interpolation='bicubic')
            axes.set_axis_off()
            if column == 0:
                _draw_annotations(axes, scene, classes)
                title = f'{len(scene.objects)} objects'
            else:
                own = detections[name].get(scene.id)
                if own is None:
                    raise KeyError(f'{name}: no detections for image {scene.id}')
                title = _draw_detections(axes, own, scene, classes)
            axes.set_title(title, fontsize=9, color='0.25', pad=3)
            if row == 0:
                axes.annotate(
                    name,
                    xy=(0.5, 1.0),
                    xytext=(0, 20),
                    xycoords='axes fraction',
                    textcoords='offset points',
                    ha='center',
                    fontsize=14,
                    weight='bold',
                )
    draw_curves(figure.add_subplot(grid[-1, :]), curves, metric)
    figure.legend(
        handles=[
            Line2D([], [], color='black', lw=2, label='found, class right'),
            Line2D([], [], color='black', lw=2, ls=(0, (3, 2)), label='false'),
            Line2D([], [], color='0.6', lw=2, ls=':', label='missed'),
        ],
        title=f'detections with a score of {score_threshold:g} or more, IoU at least 0.5',
        loc='outside lower center',
        ncols=3,
        frameon=False,
    )
    figure.savefig(path)
    return figure


def class_colours(number: int) -> list[tuple[float, float, float]]:
    """As many well separated colours: Matplotlib's ten or twenty, or hues around the circle."""
    if number <= 20:
        listed = matplotlib.colormaps['tab10' if number <= 10 else 'tab20']
        return [listed(index)[:3] for index in range(number)]
    hues = matplotlib.colormaps['hsv']
    return [hues(index / number)[:3] for index in range(number)]


def _draw_annotations(axes: Axes, scene: Scene, classes: Sequence[str]) -> None:
    for box in scene.crowds:
        _add_box(axes, box, 'white', '--')
        _add_label(axes, box, 'crowd', '0.4')
    colours = class_colours(len(classes))
    for box, label in zip(scene.objects.boxes, scene.objects.labels, strict=True):
        _add_box(axes, box, colours[label], '-')
        _add_label(axes, box, classes[label], colours[label])


def _draw_detections(axes: Axes, detections: Objects, scene: Scene, classes: Sequence[str]) -> str:
    """Draw the boxes; return how many were found and how many are wrong, in words."""
    matches = match(detections, scene)
    for box in scene.objects.boxes[~matches.found]:
        _add_box(axes, box, 'white', ':')
    colours = class_colours(len(classes))
    # The most certain last, on top.
    for index in reversed(range(len(detections))):
        colour = colours[detections.labels[index]]
        sure = matches.correct[index] or matches.ignored[index]
        _add_box(axes, detections.boxes[index], colour, '-' if sure else (0, (3, 2)))
        text = classes[detections.labels[index]]
        if detections.scores is not None:
            text += f' {detections.scores[index]:.2f}'.replace('0.', '.')
        _add_label(axes, detections.boxes[index], text, colour)
    false = int((~matches.correct & ~matches.ignored).sum())
    return f'{int(matches.found.sum())} of {len(scene.objects)} found, {false} false'


def _add_box(axes: Axes, box: Sequence[float], colour: object, style: object) -> None:
    left, top, right, bottom = box
    axes.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            ec=colour,
            ls=style,
            lw=1.8,
            # A box along the image's edge is shown at full width.
            clip_on=False,
            # Images have any colour, so a box has a dark rim.
            path_effects=[withStroke(linewidth=3.2, foreground='#202020')],
        )
    )


def _add_label(axes: Axes, box: Sequence[float], text: str, colour: object) -> None:
    axes.text(
        max(box[0], 0.0),
        max(box[1], 0.0),
        text,
        fontsize=6.5,
        color='white',
        va='top',
        bbox=dict(facecolor=colour, edgecolor='none', pad=0.8, alpha=0.85),
        clip_on=True,
    )


def draw_curves(
    axes: Axes, curves: Mapping[str, Mapping[int, float]], metric: str, digits: int = 3
) -> None:
    """Draw a metric against the epoch, with each curve's name and last value at its end.

    Args:
        axes: the panel.
        curves: by name, the metric by epoch.
        metric: what the curves show.
        digits: decimal places of the values.
    """
    ends: list[tuple[float, int, str, str]] = []
    for name, curve in curves.items():
        epochs = sorted(curve)
        (line,) = axes.plot(epochs, [curve[epoch] for epoch in epochs], marker='o', ms=4, lw=2)
        if epochs:
            ends.append((curve[epochs[-1]], epochs[-1], name, line.get_color()))
    axes.set_ylim(bottom=0)
    # Names at the ends of the curves, moved up where they would cover the one below.
    line_height = 0.075 * axes.get_ylim()[1]
    lowest = float('-inf')
    for value, epoch, name, colour in sorted(ends):
        height = max(value, lowest)
        lowest = height + line_height
        axes.annotate(
            f'{name} {value:.{digits}f}',
            xy=(epoch, height),
            xytext=(8, 0),
            textcoords='offset points',
            va='center',
            color=colour,
            weight='bold',
            annotation_clip=False,
        )
    # Only epochs that there are, at most about a dozen.
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    axes.set_xticks(epochs[:: math.ceil(len(epochs) / 12) or 1])
    axes.set_xlabel('epoch')
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    # Room for the names.
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.22 * (right - left))
