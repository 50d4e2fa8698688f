"""What came out of trainings: logs, detections and statistics as tables and pictures."""

from mmkd.report.correlation import draw_correlations, logit_correlations, read_scores
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
from mmkd.report.metrics import COCO_COLUMNS, TOP_K_COLUMNS, Columns
from mmkd.report.picture import draw_report
from mmkd.report.statistics import PairedDifference, mean_and_deviation, paired_difference

__all__ = [
    'COCO_COLUMNS',
    'TOP_K_COLUMNS',
    'Columns',
    'Matches',
    'Objects',
    'PairedDifference',
    'Scene',
    'draw_correlations',
    'draw_report',
    'logit_correlations',
    'match',
    'mean_and_deviation',
    'paired_difference',
    'read_curve',
    'read_predictions',
    'read_scenes',
    'read_scores',
    'replace_block',
    'spread_scenes',
    'table',
]
