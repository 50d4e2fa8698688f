"""Metrics as they are printed: in points, with a dash where there is nothing to measure."""

from __future__ import annotations

from collections.abc import Mapping

DASH = '–'
_COCO = {
    'AP': 'coco/bbox_mAP',
    'AP50': 'coco/bbox_mAP_50',
    'AP75': 'coco/bbox_mAP_75',
    'AP_S': 'coco/bbox_mAP_s',
    'AP_M': 'coco/bbox_mAP_m',
    'AP_L': 'coco/bbox_mAP_l',
}
_TOP_K = {'top-1': 'accuracy/top1', 'top-5': 'accuracy/top5'}


def points(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """An evaluator's metrics in points by the columns of a table; models are compared by the first.

    None says that there was nothing to measure.
    """
    if _TOP_K['top-1'] in metrics:
        return {column: metrics.get(name) for column, name in _TOP_K.items()}
    # MMDetection reports nothing where a model has no detection at all. COCO's -1: no object has this size.
    found = {column: 100 * metrics.get(name, 0.0) for column, name in _COCO.items()}
    return {column: None if value < 0 else value for column, value in found.items()}


def main_column(metrics: Mapping[str, float]) -> str:
    """The column that models are compared by."""
    return next(iter(points(metrics)))


def cell_text(value: float | None) -> str:
    """Points as a cell of a table."""
    return DASH if value is None else f'{value:.1f}'
