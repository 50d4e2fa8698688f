"""COCO's metrics as they are printed: in points, with a dash where there is nothing to measure."""

from __future__ import annotations

from collections.abc import Mapping

COCO_COLUMNS = {
    'AP': 'coco/bbox_mAP',
    'AP50': 'coco/bbox_mAP_50',
    'AP75': 'coco/bbox_mAP_75',
    'AP_S': 'coco/bbox_mAP_s',
    'AP_M': 'coco/bbox_mAP_m',
    'AP_L': 'coco/bbox_mAP_l',
}
"""Header of a table's column and MMDetection's name of the metric."""


def points(metrics: Mapping[str, float], column: str) -> float | None:
    """A metric of :data:`COCO_COLUMNS` times 100.

    Args:
        metrics: by MMDetection's names. It names none where a model has no detection at all, which
            is an AP of 0.
        column: a key of :data:`COCO_COLUMNS`.

    Returns:
        The points, or None where COCO's -1 says that no object has this size.
    """
    value = metrics.get(COCO_COLUMNS[column], 0.0)
    return None if value < 0 else 100 * value
