"""Exports the student when training has ended."""

from __future__ import annotations

from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmkd.registry import HOOKS
from mmkd.utils.export import export_student


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Writes the last and the best checkpoint as published students, see :func:`mmkd.utils.export.export_student`.

    There is a best one if ``default_hooks.checkpoint`` has ``save_best``, and one per metric if that is a list. The
    training checkpoints are kept. Only one process writes.

    Args:
        folder: Folder to write to, relative to the run's ``work_dir``.
        allow_pickle: Unpickle checkpoints that hold more than MMEngine's own content, such as objects of a data set.

    Raises:
        ValueError: ``folder`` is outside of the ``work_dir``.
    """

    priority = 'LOWEST'  # after CheckpointHook

    def __init__(self, folder: str = 'exported', allow_pickle: bool = False) -> None:
        if Path(folder).is_absolute() or '..' in Path(folder).parts:
            raise ValueError(
                f"ExportStudentHook.folder: {folder!r} is not within the work_dir: give one such as 'exported'"
            )
        self.folder = folder
        self.allow_pickle = allow_pickle

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Export."""
        checkpoints = _checkpoints(runner)
        if not checkpoints:
            runner.logger.warning(
                'ExportStudentHook: the run has saved no checkpoint, so there is nothing to export: set '
                'default_hooks.checkpoint'
            )
        folder = Path(runner.work_dir) / self.folder
        for checkpoint in checkpoints:
            student = export_student(runner.cfg, checkpoint, folder, allow_pickle=self.allow_pickle)
            print_log(
                f'The student of {checkpoint} is exported to {student.checkpoint} with the config '
                f'{student.config.name}',
                'current',
            )


def _checkpoints(runner: Runner) -> list[str]:
    """The last and the best checkpoints of the run that still exist."""
    found: list[str | None] = []
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            last = hook.last_ckpt or runner.message_hub.get_info(
                'last_ckpt'
            )  # from before a resume
            best = getattr(hook, 'best_ckpt_path_dict', None) or {}
            found += [last, getattr(hook, 'best_ckpt_path', None), *best.values()]
    return [path for path in dict.fromkeys(found) if path is not None and Path(path).is_file()]
