from __future__ import annotations

import pytest

from mmkd.report import cell_text, main_column, points


def test_a_metric_is_given_in_points() -> None:
    assert points({'coco/bbox_mAP_s': 0.256})['AP_S'] == pytest.approx(25.6)
    assert points({'accuracy/top1': 25.6}) == {'top-1': 25.6, 'top-5': None}


def test_coco_says_minus_one_where_no_object_has_the_size() -> None:
    assert points({'coco/bbox_mAP_l': -1.0})['AP_L'] is None


def test_a_model_without_any_detection_has_no_metrics() -> None:
    assert points({})['AP'] == 0


def test_models_are_compared_by_the_first_column() -> None:
    assert main_column({}) == 'AP'
    assert main_column({'accuracy/top1': 1.0}) == 'top-1'


def test_a_cell_of_a_table() -> None:
    assert [cell_text(25.649), cell_text(None)] == ['25.6', '–']
