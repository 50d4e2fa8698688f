from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub

from mmkd.checkpoints import WholeFileBackend
from mmkd.hooks import WholeCheckpointHook


class Saving:
    """What a CheckpointHook needs of a Runner."""

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = str(work_dir)
        self.logger = logging.getLogger('saving')
        self.message_hub = MessageHub('saving')
        self.iter = self.epoch = 0
        self.max_iters = 100
        self.disk_full = False

    def save_checkpoint(
        self, out_dir: str, filename: str, *_: Any, backend_args: Any = None, **__: Any
    ) -> None:
        if self.disk_full:
            raise OSError('No space left on device')
        backend = get_file_backend(out_dir, backend_args=backend_args)
        assert isinstance(backend, WholeFileBackend)
        backend.put(b'weights', backend.join_path(out_dir, filename))


@pytest.fixture
def runner(tmp_path: Path) -> Any:
    return Saving(tmp_path)


def save(hook: CheckpointHook, runner: Any) -> list[str]:
    hook.after_train_iter(runner, 0)
    runner.iter += 1
    return sorted(path.name for path in Path(runner.work_dir).glob('iter*'))


def test_the_old_checkpoint_goes_when_the_new_one_is_there(runner: Any) -> None:
    config = CheckpointHook(interval=1, by_epoch=False, max_keep_ckpts=1)
    hook = WholeCheckpointHook.take_over(config)
    hook.before_train(runner)

    assert save(hook, runner) == ['iter_1.pth']
    assert save(hook, runner) == ['iter_2.pth']
    runner.disk_full = True
    with pytest.raises(OSError, match='No space'):
        save(hook, runner)

    assert [path.name for path in Path(runner.work_dir).glob('iter*')] == ['iter_2.pth']
    assert Path(runner.work_dir, 'last_checkpoint').read_text().endswith('iter_2.pth')


def test_the_old_best_one_too(runner: Any) -> None:
    hook = WholeCheckpointHook(interval=1, by_epoch=False, save_best='mAP', save_last=False)
    hook.before_train(runner)
    hook.after_val_epoch(runner, dict(mAP=0.1))
    runner.disk_full = True
    with pytest.raises(OSError, match='No space'):
        hook.after_val_epoch(runner, dict(mAP=0.2))
    assert Path(runner.work_dir, 'best_mAP_iter_0.pth').exists()

    runner.disk_full, runner.iter = False, 3
    hook.after_val_epoch(runner, dict(mAP=0.3))
    assert [path.name for path in Path(runner.work_dir).glob('best*')] == ['best_mAP_iter_3.pth']
