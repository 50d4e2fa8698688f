"""Checkpoints that survive a kill and a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmkd.checkpoints import WholeFileBackend
from mmkd.registry import HOOKS


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, but files on a local disk are written atomically.

    A checkpoint is written to a temporary file and renamed, so a kill or a full disk does not damage earlier ones. Old
    ones (``max_keep_ckpts``, ``save_best``) are removed after the new one is written; MMEngine removes them before. All
    options are MMEngine's.
    """

    file_backend: Any

    @classmethod
    def take_over(cls, hook: CheckpointHook) -> WholeCheckpointHook:
        """Convert the hook of a config to this class, with its options and state."""
        ours = cls.__new__(cls)
        ours.__dict__.update(hook.__dict__)
        return ours

    def before_train(self, runner: Runner) -> None:
        """Choose the file backend before MMEngine uses the folder."""
        super().before_train(runner)
        if type(self.file_backend) is LocalBackend and self.file_client_args is None:
            self.backend_args = dict(backend='mmkd_whole_files')
            self.file_backend = WholeFileBackend()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        if isinstance(self.file_backend, WholeFileBackend):
            with self.file_backend.removing_last():
                yield
        else:
            yield
