"""How alike teacher and student see the classes: correlation matrices of their logits, and a picture of them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmkd.report.picture import draw_curves

_TILE_INCHES = 2.7
_CURVE_INCHES = 3.2
_DPI = 110


def read_scores(path: str | Path) -> np.ndarray:
    """Read the predictions of a classifier that ``tools/test.py --out`` dumped.

    Args:
        path: the pickle file. Unpickling runs code: read only files of your own.

    Returns:
        (N, C) logits in the order of the data set, less each row's mean, which the softmax had removed.
    """
    with Path(path).open('rb') as file:
        samples = pickle.load(file)
    probabilities = np.stack([sample['pred_score'].numpy() for sample in samples]).astype(float)
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return logits - logits.mean(axis=1, keepdims=True)


def logit_correlations(logits: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each two classes' logits over the samples, (N, C) to (C, C).

    A class whose logit is the same for all samples correlates with none: 0.
    """
    centred = logits - logits.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return unit.T @ unit


def draw_correlations(
    path: str | Path,
    logits: Mapping[str, np.ndarray],
    curves: Mapping[str, Mapping[int, float]],
    metric: str = 'top-1 accuracy (validation)',
) -> Figure:
    """Draw the correlation matrices of several models, how each differs from the first one's, and their curves.

    Args:
        path: the PNG file to write.
        logits: by name of the model, its (N, C) logits for the same samples; the teacher comes first.
        curves: by name, the metric in points by epoch.
        metric: what the curves show.

    Returns:
        The figure: a panel per model, one per model but the first, and the panel of the curves.
    """
    matrices = {name: logit_correlations(rows) for name, rows in logits.items()}
    teacher, reference = next(iter(matrices.items()))
    columns = len(matrices)
    figure = Figure(
        figsize=(columns * _TILE_INCHES, 2 * (_TILE_INCHES + 0.4) + _CURVE_INCHES),
        dpi=_DPI,
        layout='constrained',
    )
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        3, columns, height_ratios=[_TILE_INCHES, _TILE_INCHES, _CURVE_INCHES]
    )
    for column, (name, matrix) in enumerate(matrices.items()):
        axes = figure.add_subplot(grid[0, column])
        shown = axes.imshow(matrix, cmap='RdBu_r', vmin=-1, vmax=1, interpolation='nearest')
        axes.set_title(name, fontsize=13, weight='bold')
        axes.set_xticks([])
        axes.set_yticks([])
        if column == 0:
            axes.set_ylabel('correlation of\nclass logits')
            figure.colorbar(shown, ax=axes, location='left', shrink=0.8)
    differences = {
        name: np.abs(matrix - reference) for name, matrix in matrices.items() if name != teacher
    }
    brightest = max((difference.max() for difference in differences.values()), default=1.0)
    for column, difference in enumerate(differences.values(), start=1):
        axes = figure.add_subplot(grid[1, column])
        shown = axes.imshow(
            difference, cmap='magma_r', vmin=0, vmax=brightest, interpolation='nearest'
        )
        axes.set_title(f'|difference|, mean {difference.mean():.3f}', fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        if column == 1:
            axes.set_ylabel(f'from {teacher}')
            figure.colorbar(shown, ax=axes, location='left', shrink=0.8)
    draw_curves(figure.add_subplot(grid[2, :]), curves, metric, digits=1)
    figure.savefig(path)
    return figure
