from __future__ import annotations

import json
from pathlib import Path

from mmkd.report import read_curve, read_log

METRIC = 'coco/bbox_mAP'


def train_record(epoch: int, iteration: int) -> dict:
    return {'loss': 1.0, 'epoch': epoch, 'iter': iteration, 'step': iteration}


def val_record(epoch: int, value: float) -> dict:
    return {METRIC: value, 'coco/bbox_mAP_50': 2 * value, 'time': 0.1, 'step': epoch}


def write_log(work_dir: Path, timestamp: str, records: list[dict], tail: str = '') -> None:
    path = work_dir / timestamp / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, records)) + '\n' + tail)


def test_training_records_are_no_points_of_the_curve(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        '20260101_000000',
        [train_record(1, 50), val_record(1, 0.1), train_record(2, 100), val_record(2, 0.2)],
    )
    assert read_curve(tmp_path) == {1: 10, 2: 20}


def test_a_resumed_training_continues_the_curve_and_its_last_call_wins(tmp_path: Path) -> None:
    # Written in the wrong order: the timestamp counts, not the order of the folder's entries.
    write_log(tmp_path, '20260102_000000', [val_record(2, 0.25), val_record(3, 0.3)])
    write_log(tmp_path, '20260101_000000', [val_record(1, 0.1), val_record(2, 0.2)])
    assert list(read_curve(tmp_path).items()) == [(1, 10), (2, 25), (3, 30)]


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    write_log(tmp_path, '20260101_000000', [val_record(1, 0.1)], tail='{"coco/bbox_mAP": 0.')
    assert len(read_log(tmp_path)) == 1
    assert read_curve(tmp_path) == {1: 10}


def test_nothing_logged_is_an_empty_curve(tmp_path: Path) -> None:
    assert read_curve(tmp_path) == {}
