"""Metrics as they are printed: in points, with a dash where there is nothing to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DASH = '–'


@dataclass(frozen=True)
class Columns:
    """The metrics of a task as columns of a table.

    Attributes:
        title: What they are, for the text below the table.
        keys: MMDetection's or MMPretrain's name of the metric by the column's header; the first column is the one
            that models are compared by.
        scale: Points per unit of the metric.
        absent: The value of a metric that is not reported.
    """

    title: str
    keys: Mapping[str, str]
    scale: float
    absent: float

    @property
    def main(self) -> str:
        """Header of the column that models are compared by."""
        return next(iter(self.keys))

    def points(self, metrics: Mapping[str, float], column: str) -> float | None:
        """A metric in points; None for a negative value, which says that there is nothing to measure."""
        value = metrics.get(self.keys[column], self.absent)
        return None if value < 0 else self.scale * value

    def text(self, metrics: Mapping[str, float], column: str) -> str:
        """The same as a cell of a table."""
        value = self.points(metrics, column)
        return DASH if value is None else f'{value:.1f}'


COCO_COLUMNS = Columns(
    'COCO AP',
    {
        'AP': 'coco/bbox_mAP',
        'AP50': 'coco/bbox_mAP_50',
        'AP75': 'coco/bbox_mAP_75',
        'AP_S': 'coco/bbox_mAP_s',
        'AP_M': 'coco/bbox_mAP_m',
        'AP_L': 'coco/bbox_mAP_l',
    },
    scale=100.0,
    # MMDetection reports nothing where a model has no detection at all. COCO's -1: no object has this size.
    absent=0.0,
)
TOP_K_COLUMNS = Columns(
    'Accuracy',
    {'top-1': 'accuracy/top1', 'top-5': 'accuracy/top5'},
    scale=1.0,  # MMPretrain's are percentages
    absent=-1.0,
)


def columns_of(metrics: Mapping[str, float]) -> Columns:
    """The columns of the task that an evaluator's metrics are of."""
    return TOP_K_COLUMNS if 'accuracy/top1' in metrics else COCO_COLUMNS
