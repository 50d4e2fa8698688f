"""What came out of trainings: logs, detections and statistics as tables and pictures."""

from mmkd.report.coco import COCO_COLUMNS, points
from mmkd.report.curves import read_curve
from mmkd.report.detections import (
    Matches,
    Objects,
    Scene,
    match,
    read_predictions,
    read_scenes,
    spread_scenes,
)
from mmkd.report.markdown import replace_block, table
from mmkd.report.picture import draw_report
from mmkd.report.statistics import PairedDifference, mean_and_deviation, paired_difference

__all__ = [
    'COCO_COLUMNS',
    'Matches',
    'Objects',
    'PairedDifference',
    'Scene',
    'draw_report',
    'match',
    'mean_and_deviation',
    'paired_difference',
    'points',
    'read_curve',
    'read_predictions',
    'read_scenes',
    'replace_block',
    'spread_scenes',
    'table',
]
