from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from result_rows import row

from mmkd.report import read_rows, record


def test_rows_are_kept_by_cell_and_replaced(tmp_path: Path) -> None:
    record(tmp_path, row('plain', 1, 10.0))
    record(tmp_path, row('plain', 0, 11.0))
    record(tmp_path, row('plain', 100, 12.0, split='val'))
    record(tmp_path, row('plain', 1, 13.0))
    rows = read_rows(tmp_path, 'retinanet')
    assert [(each.split, each.seed) for each in rows] == [('test', 0), ('test', 1), ('val', 100)]
    assert rows[1] == row('plain', 1, 13.0)
    # A line for each, so that what changed is seen and branches merge.
    lines = (tmp_path / 'retinanet.json').read_text().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[1].rstrip(','))['seed'] == 0


def test_families_have_files_of_their_own(tmp_path: Path) -> None:
    record(tmp_path, row('plain', 0, 10.0))
    assert read_rows(tmp_path, 'fcos') == []
    record(tmp_path, dataclasses.replace(row('plain', 0, 10.0), family='fcos'))
    assert len(read_rows(tmp_path, 'fcos')) == len(read_rows(tmp_path, 'retinanet')) == 1


def test_two_commands_lose_no_row(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: record(tmp_path, row('plain', seed, 1.0)), range(40)))
    assert [each.seed for each in read_rows(tmp_path, 'retinanet')] == list(range(40))
    assert list(tmp_path.iterdir()) == [tmp_path / 'retinanet.json']


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / 'retinanet.json').write_text('[{"method": "plain"}]')
    with pytest.raises(ValueError, match=r'retinanet\.json'):
        read_rows(tmp_path, 'retinanet')
