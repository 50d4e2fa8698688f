from __future__ import annotations

import math
import statistics
from pathlib import Path

import cv2
import pytest
from result_rows import row

from mmkd.report import (
    Row,
    comparable,
    difference,
    difference_table,
    draw_differences,
    family_table,
)

METHODS = {'KD': ('kd', 'qfl_kd'), 'CKD': ('ckd',), 'AEKT': ('aekt',)}


@pytest.fixture
def rows() -> list[Row]:
    """Three seeds of plain training and QFL-KD, two of CKD, a teacher."""
    return [
        row('teacher', 0, 30.0),
        *(row('plain', seed, points) for seed, points in enumerate((10, 12, 11))),
        *(row('qfl_kd', seed, 13.0) for seed in range(3)),
        *(row('ckd', seed, 11.0) for seed in range(2)),
    ]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_a_familys_table_against_plain_formulas(rows: list[Row]) -> None:
    header, _, *lines = family_table(rows, ['teacher', 'plain', 'qfl_kd', 'aekt'], 3).splitlines()
    teacher, plain, qfl_kd, aekt = map(cells, lines)
    assert cells(header)[-3:] == ['AP − plain [95 %]', 'Seeds', 'Training']
    assert teacher[1] == '30.00'
    assert teacher[-3:] == ['–', '1', '1.0 min']
    assert plain[1] == f'11.00 ± {statistics.stdev([10, 12, 11]):.2f}'
    assert plain[6] == '–', 'no large object'
    # Differences 3, 1, 2 points: deviation 1, t(0.975, 2) = 4.3027 from a printed table.
    half = 4.3027 / math.sqrt(3)
    assert qfl_kd[-3:] == [f'+2.00 [{2 - half:+.2f}, {2 + half:+.2f}]', '3', '2.0 min']
    assert aekt[1:] == ['–', '–', '–', '–', '–', '–', '–', '0 of 3', '–'], 'it stays open'


def test_the_overview_shows_what_there_is_and_what_is_missing(rows: list[Row]) -> None:
    header, _, line, empty = difference_table(
        {'retinanet': rows, 'fcos': []}, METHODS, 3
    ).splitlines()
    assert cells(header) == ['', 'teacher', 'plain', 'KD', 'CKD', 'AEKT']
    family, teacher, plain, kd, ckd, aekt = cells(line)
    assert (family, teacher, plain) == ('retinanet, AP', '30.0', '11.0 ± 1.0')
    assert kd.startswith('+2.00 [-'), 'QFL-KD stands for KD, and its interval holds 0'
    assert ckd.endswith('(2 of 3)')
    assert aekt == '–'
    assert cells(empty)[1:] == ['–'] * 5


def test_an_interval_that_leaves_0_out_is_bold(rows: list[Row]) -> None:
    rows += [row('aekt', seed, points) for seed, points in enumerate((15, 17, 16.1))]
    line = difference_table({'retinanet': rows}, METHODS, 3).splitlines()[2]
    assert cells(line)[-1].startswith('**+5.03 [+')


def test_seeds_are_paired_by_number_and_lone_ones_left_out(rows: list[Row]) -> None:
    result = difference([*rows, row('ckd', 7, 99.0)], ['dkd', 'ckd'])
    assert result is not None
    assert (result.pairs, result.mean) == (2, pytest.approx(0))
    assert difference(rows, ['aekt']) is None
    assert difference([], ['ckd']) is None


def test_one_pair_has_no_interval() -> None:
    result = difference([row('plain', 0, 10.0), row('ckd', 0, 12.5)], ['ckd'])
    assert str(result) == '+2.50'


def test_rows_of_other_settings_or_another_split_are_not_mixed_in() -> None:
    rows = [
        row('ckd', 0, 1.0, settings='old', date='1'),
        row('ckd', 1, 2.0, settings='new', date='2'),
        row('ckd', 100, 3.0, split='val', settings='newest', date='3'),
        row('plain', 0, 4.0, settings='old', date='1'),
    ]
    kept, left_out = comparable(rows, 'test')
    assert {(each.method, each.seed) for each in kept} == {('ckd', 1), ('plain', 0)}
    assert left_out == ['ckd']


def test_the_plot_has_a_panel_per_family_with_results(tmp_path: Path, rows: list[Row]) -> None:
    path = tmp_path / 'plot.png'
    figure = draw_differences(path, {'retinanet': rows, 'fcos': []}, METHODS)
    (axes,) = figure.axes
    assert axes.get_title() == 'retinanet'
    assert [label.get_text() for label in axes.get_yticklabels()] == list(METHODS)
    # One line at 0; of the two methods with results the points.
    assert sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == 'o') == [
        pytest.approx(0), pytest.approx(2),
    ]  # fmt: skip
    assert cv2.imread(str(path)) is not None
    draw_differences(path, {}, METHODS)
