from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmkd.utils import (
    PreflightError,
    lock_work_dir,
    resolve_resume,
    warn_of_overwriting,
    work_dir,
)


def hold(folder: str, locked: Any) -> None:
    """A run in a process of its own, which does not end."""
    with lock_work_dir(folder):
        locked.set()
        signal.pause()


def test_a_second_run_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path: Path) -> None:
    context = multiprocessing.get_context('fork')  # a lock is not inherited
    locked = context.Event()
    holder = context.Process(target=hold, args=(str(tmp_path), locked))
    holder.start()
    try:
        assert locked.wait(60)
        with (
            pytest.raises(
                PreflightError, match=rf'another run .*process {holder.pid} on .*--work-dir'
            ),
            lock_work_dir(str(tmp_path)),
        ):
            raise AssertionError('locked twice')
    finally:
        holder.kill()
        holder.join()

    with lock_work_dir(str(tmp_path)):
        assert f'process {os.getpid()} ' in (tmp_path / '.mmkd.lock').read_text()


def test_only_the_first_process_of_a_run_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('RANK', '1')
    with lock_work_dir(str(tmp_path), 'pytorch'):
        assert list(tmp_path.iterdir()) == []


def checkpoints(folder: Path, *names: str, last: str | None = None) -> Config:
    for name in names:
        meta = dict(epoch=1, iter=9, cfg="model = dict(type='Net')")
        torch.save(dict(state_dict={}, meta=meta), folder / name)
    if last is not None:
        (folder / 'last_checkpoint').write_text(str(folder / last) if last else '')
    return Config(dict(work_dir=str(folder), resume=True, load_from=None, model=dict(type='Net')))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def test_the_last_checkpoint_is_taken(tmp_path: Path) -> None:
    cfg = checkpoints(tmp_path, 'epoch_2.pth', 'epoch_9.pth', 'epoch_10.pth', last='epoch_10.pth')
    resolve_resume(cfg)
    assert cfg.load_from == str(tmp_path / 'epoch_10.pth')


def test_one_of_an_earlier_longer_run_is_not(tmp_path: Path) -> None:
    cfg = checkpoints(tmp_path, 'epoch_2.pth', 'epoch_10.pth', 'best_1.pth', last='epoch_2.pth')
    resolve_resume(cfg)
    assert cfg.load_from == str(tmp_path / 'epoch_2.pth')


def test_a_note_that_was_cut_off_is_done_without(tmp_path: Path) -> None:
    cfg = checkpoints(tmp_path, 'iter_9.pth', 'iter_10.pth', 'best_99.pth', last='')
    resolve_resume(cfg)
    assert cfg.load_from == str(tmp_path / 'iter_10.pth')


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(work_dir, 'print_log', lambda text, *_: said.append(text))
    return said


def test_the_one_before_a_truncated_one_is_taken_and_both_are_named(
    tmp_path: Path, warnings: list[str]
) -> None:
    cfg = checkpoints(tmp_path, 'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth', last='epoch_3.pth')
    cut(tmp_path / 'epoch_3.pth')
    resolve_resume(cfg)
    assert cfg.load_from == str(tmp_path / 'epoch_2.pth')
    (warning,) = warnings
    assert f'{tmp_path}/epoch_3.pth is truncated' in warning
    assert f'goes on from the one before: {tmp_path}/epoch_2.pth' in warning


def test_without_a_whole_one_nothing_is_begun_anew_unasked(tmp_path: Path) -> None:
    cfg = checkpoints(tmp_path, 'epoch_1.pth', last='epoch_1.pth')
    cut(tmp_path / 'epoch_1.pth')
    with pytest.raises(PreflightError, match=r'no checkpoint in .* is whole.*leave --resume out'):
        resolve_resume(cfg)


def test_a_truncated_one_that_is_named_is_refused(tmp_path: Path) -> None:
    cfg = checkpoints(tmp_path, 'epoch_1.pth')
    cfg.load_from = str(tmp_path / 'epoch_1.pth')
    resolve_resume(cfg)
    cut(tmp_path / 'epoch_1.pth')
    with pytest.raises(PreflightError, match=r'--resume: .*epoch_1\.pth is truncated'):
        resolve_resume(cfg)


def test_a_run_without_checkpoints_begins(tmp_path: Path) -> None:
    cfg = checkpoints(tmp_path)
    resolve_resume(cfg)
    assert (cfg.resume, cfg.load_from) == (False, None)


def test_checkpoints_in_a_folder_of_their_own_are_found(tmp_path: Path) -> None:
    folder = tmp_path / 'out' / 'run'
    folder.mkdir(parents=True)
    cfg = checkpoints(folder, 'epoch_1.pth')
    cfg.work_dir = str(tmp_path / 'run')
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', out_dir=str(tmp_path / 'out')))
    resolve_resume(cfg)
    assert cfg.load_from == str(folder / 'epoch_1.pth')


@pytest.mark.parametrize('named', [False, True])
def test_a_checkpoint_of_another_recipe_is_refused(named: bool, tmp_path: Path) -> None:
    cfg = checkpoints(tmp_path, 'epoch_1.pth')
    cfg.load_from = str(tmp_path / 'epoch_1.pth') if named else None
    cfg.model.type = 'OtherNet'
    with pytest.raises(PreflightError, match=r"epoch_1\.pth .*\n.*model\.type was 'Net', is 'Oth"):
        resolve_resume(cfg)


def test_other_settings_that_have_changed_are_said(tmp_path: Path, warnings: list[str]) -> None:
    cfg = checkpoints(tmp_path, 'epoch_1.pth')
    cfg.model.width = 8
    resolve_resume(cfg)
    (warning,) = warnings
    assert 'model.width was None, is 8' in warning


def test_a_checkpoint_that_does_not_say_its_recipe_is_taken_with_a_warning(
    tmp_path: Path, warnings: list[str]
) -> None:
    cfg = checkpoints(tmp_path)
    torch.save(dict(state_dict={}, meta=dict(epoch=1, iter=9)), tmp_path / 'epoch_1.pth')
    resolve_resume(cfg)
    (warning,) = warnings
    assert 'does not hold the config' in warning


@pytest.mark.parametrize('meta', [{}, dict(meta=dict(cfg='')), dict(meta=None)])
def test_weights_alone_are_no_run_to_resume(tmp_path: Path, meta: dict[str, Any]) -> None:
    cfg = checkpoints(tmp_path)
    torch.save(dict(state_dict={}, **meta), tmp_path / 'epoch_1.pth')
    with pytest.raises(PreflightError, match=r'--resume: .*epoch_1\.pth holds weights.*load_from='):
        resolve_resume(cfg)


def test_a_run_that_writes_over_checkpoints_says_so(tmp_path: Path, warnings: list[str]) -> None:
    cfg = checkpoints(tmp_path, 'epoch_1.pth', 'best_AP_epoch_1.pth', 'teacher.pth')
    resolve_resume(cfg)
    warn_of_overwriting(cfg)
    assert warnings == []

    cfg.resume = False
    warn_of_overwriting(cfg)
    (warning,) = warnings
    assert f'{tmp_path} holds 2 checkpoints of an earlier run' in warning

    cfg.work_dir = str(tmp_path / 'empty')
    warn_of_overwriting(cfg)
    assert len(warnings) == 1
