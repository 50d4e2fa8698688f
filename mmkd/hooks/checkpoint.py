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
    """MMEngine's ``CheckpointHook``, whose files on a local disk are whole or not there.

    A checkpoint is written beside its place and renamed, so a kill or a full disk leaves the earlier ones as they were;
    and an old one (``max_keep_ckpts``, ``save_best``) is removed when the new one is there, where MMEngine removes it
    before. All options are MMEngine's.
    """

    file_backend: Any

    @classmethod
    def take_over(cls, hook: CheckpointHook) -> WholeCheckpointHook:
        """The hook of a config as one of this class, with its options and state."""
        ours = cls.__new__(cls)
        ours.__dict__.update(hook.__dict__)
        return ours

    def before_train(self, runner: Runner) -> None:
        """Choose how to write before MMEngine looks at the folder."""
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
