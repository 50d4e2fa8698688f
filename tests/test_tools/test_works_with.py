from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from mmkd.utils.recipe import method_names

COMMITTED = Path(__file__).resolve().parents[2] / 'docs/works_with.json'


@pytest.fixture(scope='module')
def tool(load_tool) -> ModuleType:
    return load_tool('works_with')


def test_the_committed_rows_are_the_presets(tool) -> None:
    rows = tool.read(COMMITTED)
    assert list(rows) == method_names(), 'run tools/works_with.py'
    assert all(list(row) == list(tool.FAMILIES) for row in rows.values())


@pytest.mark.parametrize(
    ('method', 'family'),
    [('kd', 'classifier'), ('ld', 'anchors'), ('cross_kd', 'GFL'), ('qfl_kd', 'RoI')],
)
def test_a_committed_cell_is_what_comes_out(tool, method: str, family: str) -> None:
    assert tool.reason_against(method, family) == tool.read(COMMITTED)[method][family]


def test_a_loss_that_teaches_nothing_does_not_work(tool, monkeypatch) -> None:
    monkeypatch.setattr('mmkd.losses.KDLoss.compute', lambda *_: (0 * _[1]).sum())
    assert 'gradient' in tool.reason_against('kd', 'classifier')


def test_the_command_renews_the_rows_it_is_given(tool, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tool, 'FAMILIES', {'classifier': tool.FAMILIES['classifier']})
    (tmp_path / 'docs').mkdir()
    kept = {'dkd': {'classifier': 'was kept'}, 'gone': {'classifier': None}}
    (tmp_path / 'docs/works_with.json').write_text(json.dumps(kept))

    assert tool.main(['kd', 'rkd', '--folder', str(tmp_path)]) == 0

    rows = {method: {'classifier': None} for method in ('kd', 'rkd')} | {'dkd': kept['dkd']}
    assert tool.read(tmp_path / 'docs/works_with.json') == rows
    assert '1. `was kept`' in (tmp_path / 'docs/works_with.md').read_text()
    assert '| kd, rkd | ' in (tmp_path / 'README.md').read_text()


def test_an_unknown_method_is_refused(tool, capsys) -> None:
    with pytest.raises(SystemExit):
        tool.main(['nonsense'])
    assert 'nonsense' in capsys.readouterr().err
