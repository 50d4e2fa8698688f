"""Checks that stored teachers were made from the training data."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.registry import HOOKS
from mmkd.teachers import StoredTeacher
from mmkd.teachers.store_key import data_key

from ._distiller import distiller_of


@HOOKS.register_module()
class TeacherStoreHook(Hook):
    """Checks, before the first step, that the stored teachers were made from this training data.

    After the last one it waits for the comparison of that step's pixels, which on a GPU arrives a step later.
    `tools/train.py` adds it. Without stored teachers it does nothing.

    Raises:
        StoreError: They differ; the message names the field.
        ValueError: The run has no distiller.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare."""
        stored = self._stored(runner)
        if not stored:
            return
        key = data_key(runner.train_dataloader.dataset, runner.cfg)
        for teacher in stored:
            teacher.check_data(key)

    def after_train(self, runner: Runner) -> None:
        """Look at the last step's pixels."""
        for teacher in self._stored(runner):
            teacher.look_at_pixels(wait=True)

    def _stored(self, runner: Runner) -> list[StoredTeacher]:
        teachers = distiller_of(runner, self).teachers.values()
        return [teacher for teacher in teachers if isinstance(teacher, StoredTeacher)]
