from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmkd.report import Objects, Scene, draw_report

CLASSES = ('circle', 'square')
CURVES = {'teacher': {1: 10.0, 2: 30.0}, 'student': {1: 5.0, 2: 20.0}}
MATRICES = {'teacher': np.eye(2), 'student': np.array([[1, 0.5], [0.5, 1]])}


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    made = []
    for number in (3, 4):
        path = tmp_path / f'{number}.png'
        cv2.imwrite(str(path), np.full((64, 64, 3), 40 * number, np.uint8))
        boxes = np.array([[5.0, 5, 25, 25], [30, 30, 60, 60]])
        made.append(Scene(number, path, Objects(boxes, np.array([0, 1])), True))
    return made


@pytest.fixture
def detections(scenes: list[Scene]) -> dict[str, dict[int, Objects]]:
    """The teacher finds all; the student finds the first object and takes the second for a circle."""
    boxes = scenes[0].objects.boxes
    right = Objects(boxes, np.array([0, 1]))
    wrong = Objects(boxes, np.array([0, 0]))
    return {'teacher': {3: right, 4: right}, 'student': {3: wrong, 4: wrong}}


def line_styles(axes: Axes) -> list[object]:
    return [patch.get_linestyle() for patch in axes.patches]


def draw(path: Path, scenes: list[Scene], detections: dict[str, dict[int, Objects]]) -> Figure:
    return draw_report(path, MATRICES, CURVES, 'AP', scenes, detections, CLASSES)


def test_a_panel_per_image_and_column_then_similarities_and_curves(
    tmp_path: Path, scenes: list[Scene], detections: dict[str, dict[int, Objects]]
) -> None:
    path = tmp_path / 'report.png'
    figure = draw(path, scenes, detections)
    # Two rows of three images; distances, two matrices and their scale; the curves.
    assert len(figure.axes) == 2 * 3 + 4 + 1
    assert cv2.imread(str(path)) is not None
    curves = next(axes for axes in figure.axes if axes.get_xlabel() == 'epoch')
    assert [line.get_ydata().tolist() for line in curves.lines] == [[10, 30], [5, 20]]
    (distance,) = figure.axes[6].patches
    assert distance.get_width() == pytest.approx(0.25)


def test_classifiers_have_no_images(tmp_path: Path) -> None:
    figure = draw_report(tmp_path / 'report.png', MATRICES, CURVES, 'top-1')
    assert len(figure.axes) == 5


def test_what_is_right_wrong_and_missed_is_told_apart(
    tmp_path: Path, scenes: list[Scene], detections: dict[str, dict[int, Objects]]
) -> None:
    truth, teacher, student = draw(tmp_path / 'report.png', scenes, detections).axes[:3]
    assert truth.get_title() == 'ground truth\n2 objects'
    assert teacher.get_title() == 'teacher\n2 of 2 found, 0 false'
    assert student.get_title() == 'student\n1 of 2 found, 1 false'
    assert line_styles(teacher) == ['-', '-']
    # The missed object below the false detection below the right one.
    assert line_styles(student) == [':', (0, (3, 2)), '-']
    # The same class has the same colour in all columns.
    assert student.patches[-1].get_edgecolor() == truth.patches[0].get_edgecolor()
    assert truth.patches[0].get_edgecolor() != truth.patches[1].get_edgecolor()
    # And the legend says which.
    names = [text.get_text() for text in truth.get_figure().legends[0].get_texts()]
    assert names == ['found, class right', 'false', 'missed', *CLASSES]


def test_an_image_that_is_gone_is_named(
    tmp_path: Path, scenes: list[Scene], detections: dict[str, dict[int, Objects]]
) -> None:
    scenes[0].path.unlink()
    with pytest.raises(FileNotFoundError, match=r'3\.png'):
        draw(tmp_path / 'report.png', scenes, detections)
