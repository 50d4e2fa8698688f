from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from mmkd.report import Objects, Scene, draw_report
from mmkd.report.picture import class_colours

CLASSES = ('circle', 'square')
CURVES = {'teacher': {1: 0.1, 2: 0.3}, 'student': {1: 0.05, 2: 0.2}}


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    made = []
    for number in (3, 4):
        path = tmp_path / f'{number}.png'
        cv2.imwrite(str(path), np.full((64, 64, 3), 40 * number, np.uint8))
        boxes = np.array([[5.0, 5, 25, 25], [30, 30, 60, 60]])
        made.append(Scene(number, path, Objects(boxes, np.array([0, 1]))))
    return made


@pytest.fixture
def detections(scenes: list[Scene]) -> dict[str, dict[int, Objects]]:
    """The teacher finds all; the student finds the first object and takes the second for a circle."""
    boxes = scenes[0].objects.boxes
    right = Objects(boxes, np.array([0, 1]), np.array([0.9, 0.8]))
    wrong = Objects(boxes, np.array([0, 0]), np.array([0.9, 0.4]))
    return {'teacher': {3: right, 4: right}, 'student': {3: wrong, 4: wrong}}


def line_styles(axes: Axes) -> list[object]:
    return [patch.get_linestyle() for patch in axes.patches]


def test_a_panel_per_image_and_column_and_one_for_the_curves(
    tmp_path: Path, scenes: list[Scene], detections: dict[str, dict[int, Objects]]
) -> None:
    path = tmp_path / 'report.png'
    figure = draw_report(path, scenes, detections, CLASSES, CURVES, score_threshold=0.3)
    assert len(figure.axes) == 2 * 3 + 1
    written = cv2.imread(str(path))
    assert written is not None
    assert written.shape[0] > written.shape[1] / 2
    assert [line.get_ydata().tolist() for line in figure.axes[-1].lines] == [
        [0.1, 0.3],
        [0.05, 0.2],
    ]


def test_what_is_right_wrong_and_missed_is_told_apart(
    tmp_path: Path, scenes: list[Scene], detections: dict[str, dict[int, Objects]]
) -> None:
    figure = draw_report(tmp_path / 'report.png', scenes, detections, CLASSES, CURVES, 0.3)
    truth, teacher, student = figure.axes[:3]
    assert truth.get_title() == '2 objects'
    assert teacher.get_title() == '2 of 2 found, 0 false'
    assert student.get_title() == '1 of 2 found, 1 false'
    assert line_styles(teacher) == ['-', '-']
    # The missed object below the false detection below the right one.
    assert line_styles(student) == [':', (0, (3, 2)), '-']
    # The same class has the same colour in all columns.
    assert student.patches[-1].get_edgecolor() == truth.patches[0].get_edgecolor()
    assert truth.patches[0].get_edgecolor() != truth.patches[1].get_edgecolor()


def test_names_at_the_ends_of_close_curves_do_not_cover_each_other(
    tmp_path: Path, scenes: list[Scene], detections: dict[str, dict[int, Objects]]
) -> None:
    curves = {'a': {1: 0.2, 2: 0.300}, 'b': {1: 0.1, 2: 0.301}, 'c': {1: 0.1, 2: 0.302}}
    figure = draw_report(tmp_path / 'report.png', scenes, detections, CLASSES, curves, 0.3)
    boxes = [text.get_window_extent() for text in figure.axes[-1].texts]
    assert len(boxes) == 3
    assert not any(first.overlaps(second) for i, first in enumerate(boxes) for second in boxes[:i])


def test_what_is_missing_is_named(
    tmp_path: Path, scenes: list[Scene], detections: dict[str, dict[int, Objects]]
) -> None:
    del detections['student'][4]
    with pytest.raises(KeyError, match='student: no detections for image 4'):
        draw_report(tmp_path / 'report.png', scenes, detections, CLASSES, CURVES, 0.3)
    scenes[0].path.unlink()
    with pytest.raises(FileNotFoundError, match=r'3\.png'):
        draw_report(tmp_path / 'report.png', scenes, detections, CLASSES, CURVES, 0.3)


@pytest.mark.parametrize('number', [1, 10, 20, 80])
def test_every_class_has_its_own_colour(number: int) -> None:
    assert len(set(class_colours(number))) == number
