"""What ExportStudentHook refuses; what it writes is in tests/test_utils/test_export.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS
from tiny import make_runner

from mmkd.hooks import ExportStudentHook


def test_it_is_registered_for_recipes() -> None:
    assert isinstance(HOOKS.build(dict(type='mmkd.ExportStudentHook')), ExportStudentHook)


@pytest.mark.parametrize('folder', ['/elsewhere', '../elsewhere', 'a/../../b'])
def test_it_writes_into_the_work_dir_only(folder: str) -> None:
    with pytest.raises(ValueError, match=r'ExportStudentHook\.folder:'):
        ExportStudentHook(folder=folder)


def test_a_run_without_checkpoints_is_a_warning(tiny_config: Config, tmp_path: Path) -> None:
    runner = make_runner(tiny_config, tmp_path)
    ExportStudentHook().after_train(runner)
    (log,) = tmp_path.glob('*/*.log')
    assert 'has saved no checkpoint' in log.read_text()
    assert not (tmp_path / 'exported').exists()
