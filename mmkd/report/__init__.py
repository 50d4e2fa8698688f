"""What came out of trainings: rows of results, logs and detections as tables and pictures."""

from mmkd.report.comparison import (
    comparable,
    difference,
    difference_table,
    draw_differences,
    family_table,
)
from mmkd.report.detections import (
    Objects,
    Scene,
    choose_scenes,
    match,
    read_predictions,
    read_scenes,
)
from mmkd.report.markdown import replace_block, table
from mmkd.report.metrics import COCO_COLUMNS, TOP_K_COLUMNS, Columns, columns_of
from mmkd.report.picture import draw_report, read_curve
from mmkd.report.results import Row, read_rows, record
from mmkd.report.statistics import PairedDifference, mean_and_deviation, paired_difference

__all__ = [
    'COCO_COLUMNS',
    'TOP_K_COLUMNS',
    'Columns',
    'Objects',
    'PairedDifference',
    'Row',
    'Scene',
    'choose_scenes',
    'columns_of',
    'comparable',
    'difference',
    'difference_table',
    'draw_differences',
    'draw_report',
    'family_table',
    'match',
    'mean_and_deviation',
    'paired_difference',
    'read_curve',
    'read_predictions',
    'read_rows',
    'read_scenes',
    'record',
    'replace_block',
    'table',
]
