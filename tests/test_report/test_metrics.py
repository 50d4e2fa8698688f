from __future__ import annotations

import pytest

from mmkd.report import COCO_COLUMNS, TOP_K_COLUMNS, columns_of


def test_a_metric_is_given_in_points() -> None:
    assert COCO_COLUMNS.points({'coco/bbox_mAP_s': 0.256}, 'AP_S') == pytest.approx(25.6)
    assert TOP_K_COLUMNS.points({'accuracy/top1': 25.6}, 'top-1') == 25.6


def test_coco_says_minus_one_where_no_object_has_the_size() -> None:
    assert COCO_COLUMNS.points({'coco/bbox_mAP_l': -1.0}, 'AP_L') is None


def test_what_is_not_reported() -> None:
    assert COCO_COLUMNS.points({}, 'AP') == 0  # a model without any detection
    assert TOP_K_COLUMNS.points({'accuracy/top1': 25.6}, 'top-5') is None


def test_models_are_compared_by_the_first_column() -> None:
    assert COCO_COLUMNS.main == 'AP'
    assert TOP_K_COLUMNS.main == 'top-1'


def test_a_cell_of_a_table_and_the_task_of_metrics() -> None:
    assert COCO_COLUMNS.text({'coco/bbox_mAP': 0.25649}, 'AP') == '25.6'
    assert COCO_COLUMNS.text({'coco/bbox_mAP_l': -1.0}, 'AP_L') == '–'
    assert columns_of({'accuracy/top1': 1.0}) is TOP_K_COLUMNS
    assert columns_of({}) is COCO_COLUMNS
