"""What came out of trainings: rows of results, logs and detections as tables and pictures."""

from mmkd.report.comparison import (
    PLAIN,
    TEACHER,
    PairedDifference,
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
from mmkd.report.logs import read_curve, read_log
from mmkd.report.markdown import replace_block, table
from mmkd.report.metrics import cell_text, main_column, points
from mmkd.report.picture import draw_report
from mmkd.report.results import Row, locked, read_rows, record

__all__ = [
    'PLAIN',
    'TEACHER',
    'Objects',
    'PairedDifference',
    'Row',
    'Scene',
    'cell_text',
    'choose_scenes',
    'comparable',
    'difference',
    'difference_table',
    'draw_differences',
    'draw_report',
    'family_table',
    'locked',
    'main_column',
    'match',
    'points',
    'read_curve',
    'read_log',
    'read_predictions',
    'read_rows',
    'read_scenes',
    'record',
    'replace_block',
    'table',
]
