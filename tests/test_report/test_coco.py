from __future__ import annotations

import pytest

from mmkd.report import points


def test_a_metric_is_given_in_points() -> None:
    assert points({'coco/bbox_mAP_s': 0.256}, 'AP_S') == pytest.approx(25.6)


def test_coco_says_minus_one_where_no_object_has_the_size() -> None:
    assert points({'coco/bbox_mAP_l': -1.0}, 'AP_L') is None


def test_a_model_without_detections_has_an_ap_of_0() -> None:
    assert points({}, 'AP') == 0
