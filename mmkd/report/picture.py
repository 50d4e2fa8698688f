"""The picture of a comparison: detections side by side, class similarities, and a metric against the epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import matplotlib
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

    A row per image: the annotated objects with their classes, then each model's detections. A colour is a class; a
    solid box is right, a dashed one with a name wrong (no object of that class there, or found already), a dotted
    white one an object that was missed. Then the models' class similarities, and their curves.

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
    figure = Figure(
        figsize=(columns * _TILE_INCHES, rows * (_TILE_INCHES + 0.1) + _CURVE_INCHES + 1.0),
        dpi=110,
        layout='constrained',
    )
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows + 1, columns, height_ratios=[_TILE_INCHES] * rows + [_CURVE_INCHES]
    )
    labels: list[tuple[Axes, np.ndarray, str, Any]] = []
    for row, scene in enumerate(scenes):
        image = cv2.imread(str(scene.path))
        if image is None:
            raise FileNotFoundError(f'{scene.path}: no such image')
        for column, name in enumerate(('ground truth', *detections)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image[..., ::-1], interpolation='bicubic')
            axes.set_axis_off()
            if column == 0:
                count = len(scene.objects)
                title = f'{count} object{"s" * (count > 1)}'
                labels += _draw_annotations(axes, scene, classes)
            else:
                own = detections[name].get(scene.id)
                if own is None:
                    raise KeyError(f'{name}: no detections for image {scene.id}')
                title, wrong = _draw_detections(axes, own, scene, classes)
                labels += wrong
            axes.set_title(f'{name}\n{title}' if row == 0 else title, fontsize=9)
    _draw_similarities(figure, grid[rows - 1, :], similarities, classes)
    _draw_curves(figure.add_subplot(grid[rows, :]), curves, metric)
    if scenes:
        _add_legend(figure, score_threshold)
    figure.draw_without_rendering()  # only then the panels have their places
    figure.set_layout_engine('none')
    _place_labels(canvas, labels)
    figure.savefig(path)
    return figure


def read_curve(work_dir: str | Path, metric: str) -> dict[int, float]:
    """Read the values of a validation metric from ``WORK_DIR/TIMESTAMP/vis_data/scalars.json``.

    A training that was resumed has one such file per call; where an epoch is in several, the last
    call's value counts, for that is the training that went on.

    Args:
        work_dir: Folder of a training, with epochs counted by MMEngine.
        metric: Name of the metric, such as ``coco/bbox_mAP``.

    Returns:
        Value by epoch, in order of epochs; empty if nothing has been validated.
    """
    curve: dict[int, float] = {}
    # MMEngine's timestamps (20261121_032716) sort by time.
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # A kill cut this line short.
            # Training records name their epoch and count steps in iterations.
            if metric in entry and 'epoch' not in entry:
                curve[int(entry['step'])] = float(entry[metric])
    return dict(sorted(curve.items()))


def class_colours(number: int) -> list[tuple[float, ...]]:
    """As many well separated colours: Matplotlib's ten, or hues around the circle."""
    if number <= 10:
        return [matplotlib.colormaps['tab10'](index) for index in range(number)]
    return [matplotlib.colormaps['hsv'](index / number) for index in range(number)]


def _draw_annotations(
    axes: Axes, scene: Scene, classes: Sequence[str]
) -> list[tuple[Axes, np.ndarray, str, Any]]:
    """Draw the boxes; return the labels that belong to them."""
    colours = class_colours(len(classes))
    labels = []
    for box, label in zip(scene.objects.boxes, scene.objects.labels, strict=True):
        _add_box(axes, box, colours[label], '-')
        labels.append((axes, box, classes[label], colours[label]))
    return labels


def _draw_detections(
    axes: Axes, detections: Objects, scene: Scene, classes: Sequence[str]
) -> tuple[str, list[tuple[Axes, np.ndarray, str, Any]]]:
    """Draw the boxes; return what was found, in words, and the labels of what is wrong."""
    correct, found = match(detections, scene.objects)
    colours = class_colours(len(classes))
    labels = []
    for box in scene.objects.boxes[~found]:
        _add_box(axes, box, 'white', ':')
    # The most certain last, on top.
    for index in reversed(range(len(detections))):
        box, label = detections.boxes[index], detections.labels[index]
        _add_box(axes, box, colours[label], '-' if correct[index] else _DASHED)
        if not correct[index]:
            labels.append((axes, box, classes[label], colours[label]))
    return f'{found.sum()} of {len(found)} found, {len(labels)} false', labels[::-1]


def _add_box(axes: Axes, box: Sequence[float], colour: Any, style: Any) -> None:
    left, top, right, bottom = box
    # A box along the image's edge is shown at full width; images have any colour, so a box has a dark rim.
    rim = [withStroke(linewidth=3.2, foreground='#202020')]
    axes.add_patch(
        Rectangle(
            (left, top), right - left, bottom - top,
            fill=False, ec=colour, ls=style, lw=1.8, clip_on=False, path_effects=rim,
        )
    )  # fmt: skip


def _place_labels(
    canvas: FigureCanvasAgg, labels: Sequence[tuple[Axes, np.ndarray, str, Any]]
) -> None:
    """Write each label at its box, where it covers no other one and no other panel; where there is no room, none."""
    renderer = canvas.get_renderer()
    placed: list[tuple[Axes, Any]] = []
    for axes, (left, top, right, bottom), name, colour in labels:
        text = axes.text(
            left, top, name, fontsize=6.5, color='white',
            bbox=dict(facecolor=colour, edgecolor='none', pad=0.8, alpha=0.85),
        )  # fmt: skip
        room = axes.get_window_extent(renderer).padded(2)
        others = [extent for own, extent in placed if own is axes]
        for x, y, ha, va in (
            (left, top, 'left', 'bottom'), (left, bottom, 'left', 'top'), (right, top, 'right', 'bottom'),
            (right, bottom, 'right', 'top'), (left, top, 'left', 'top'), (left, bottom, 'left', 'bottom'),
            (right, top, 'right', 'top'), (right, bottom, 'right', 'bottom'),
            (right, (top + bottom) / 2, 'left', 'center'), (left, (top + bottom) / 2, 'right', 'center'),
        ):  # fmt: skip
            text.set(x=x, y=y, ha=ha, va=va)
            text.update_bbox_position_size(renderer)
            extent = cast(Any, text.get_bbox_patch()).get_window_extent(renderer)
            inside = room.x0 <= extent.x0 and extent.x1 <= room.x1
            inside = inside and room.y0 <= extent.y0 and extent.y1 <= room.y1
            if inside and not any(extent.overlaps(other) for other in others):
                placed.append((axes, extent))
                break
        else:
            text.remove()


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
        axes.set_xticks([])
        axes.set_yticks([])
    if 0 < len(classes) <= 12:
        panels[1].set_yticks(range(len(classes)), classes, fontsize=6)
    figure.colorbar(shown, ax=list(panels[1:]), shrink=0.8, pad=0.01)


def _draw_curves(axes: Axes, curves: Mapping[str, Mapping[int, float]], metric: str) -> None:
    """Draw a metric in points against the epoch, with each curve's name and last value at its end."""
    ends: list[tuple[float, int, str, Any]] = []
    for name, curve in curves.items():
        epochs = sorted(curve)
        if epochs:
            points = [curve[epoch] for epoch in epochs]
            (line,) = axes.plot(epochs, points, marker='o', ms=4, lw=2)
            ends.append((points[-1], epochs[-1], name, line.get_color()))
    axes.set_ylim(bottom=0)
    # Names at the ends of the curves, moved up where they would cover the one below.
    line_height = 0.075 * axes.get_ylim()[1]
    lowest = float('-inf')
    for value, epoch, name, colour in sorted(ends):
        height = max(value, lowest)
        lowest = height + line_height
        axes.annotate(
            f'{name} {value:.1f}', xy=(epoch, height), xytext=(8, 0), textcoords='offset points',
            va='center', color=colour, weight='bold', annotation_clip=False,
        )  # fmt: skip
    # Only epochs that there are, at most about a dozen.
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    axes.set_xticks(epochs[:: math.ceil(len(epochs) / 12) or 1])
    axes.set_xlabel('epoch')
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.22 * (right - left))  # room for the names


def _add_legend(figure: Figure, score_threshold: float) -> None:
    figure.legend(
        handles=[
            Line2D([], [], color='black', lw=2, label='found, class right'),
            Line2D([], [], color='black', lw=2, ls=_DASHED, label='false, with the class that it says'),
            Line2D([], [], color='0.6', lw=2, ls=':', label='missed'),
        ],
        title=f'detections with a score of {score_threshold:g} or more, IoU at least 0.5',
        loc='outside lower center',
        ncols=3,
        frameon=False,
    )  # fmt: skip
