"""Is a stored teacher of this data?"""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.registry import HOOKS
from mmkd.teachers import StoredTeacher
from mmkd.teachers.store_key import data_key

from ._distiller import distiller_of


@HOOKS.register_module()
class TeacherStoreHook(Hook):
    """Compares the training data with what the stored teachers of the recipe were made from, before the first step.

    `tools/train.py` adds it. Without stored teachers it does nothing.

    Raises:
        StoreError: They differ; the message names the field.
        ValueError: The run has no distiller.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare."""
        stored = [
            teacher
            for teacher in distiller_of(runner, self).teachers.values()
            if isinstance(teacher, StoredTeacher)
        ]
        if not stored:
            return
        key = data_key(runner.train_dataloader.dataset, runner.cfg)
        for teacher in stored:
            teacher.check_data(key)
