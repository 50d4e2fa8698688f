"""Logs what a run is about to do."""

from __future__ import annotations

import logging
import math

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmkd.distillers import Distiller, describe
from mmkd.registry import HOOKS
from mmkd.structures import Progress
from mmkd.teachers import FrozenTeacher

from ._distiller import distiller_of
from .teacher_check import TeacherCheckHook


@HOOKS.register_module()
class StartReportHook(Hook):
    """Logs, before the first step, what is distilled, and the teacher's score on a few validation images.

    The report lists the teachers' files and classes, the adapters of their heads, each loss with its weight and
    samples, and the hooks. It warns of a teacher that scores no better than the untrained student: either its weights,
    classes or preprocessing are wrong, or the images are too few. :class:`TeacherCheckHook` evaluates the whole
    validation set.

    The teacher is not scored if :class:`TeacherCheckHook` is used, the run is resumed or has no validation set, the
    teacher learns beside the student, or every weight is 0 until the end. The hook does not change the result of
    training.

    Args:
        images: Number of validation images to score the teacher on, rounded up to whole batches of every process; 0
            for none.
    """

    priority = 'VERY_LOW'

    def __init__(self, images: int = 8) -> None:
        if images < 0:
            raise ValueError(f'StartReportHook.images is {images}: 0 for none, or more')
        self.images = images

    def before_train(self, runner: Runner) -> None:
        """Log the block.

        Raises:
            ValueError: The model is no distiller.
        """
        parts, warnings = self.report(runner)
        parts['hooks'] = ', '.join(type(hook).__name__ for hook in runner.hooks)
        width = max(map(len, parts))
        lines = [f'  {name:{width}}  {text}' for name, text in parts.items()]
        print_log('\n'.join(['distillation', *lines]), 'current')
        for warning in warnings:
            print_log(warning, 'current', logging.WARNING)

    def report(self, runner: Runner) -> tuple[dict[str, str], list[str]]:
        """The parts of the distillation by name, and warnings."""
        model = distiller_of(runner, self)
        parts = describe(model, Progress.current())
        warnings: list[str] = []
        if self._is_to_be_scored(runner, model):
            parts['score'], warnings = self._score(runner)
        return parts, warnings

    def _is_to_be_scored(self, runner: Runner, model: Distiller) -> bool:
        progress = Progress.current()
        return (
            self.images > 0
            and runner.iter == 0
            and runner.val_loop is not None
            and model.teacher.can_predict
            # A teacher that learns beside the student is no better yet.
            and isinstance(model.teacher, FrozenTeacher)
            and not any(isinstance(hook, TeacherCheckHook) for hook in runner.hooks)
            and not all(loss.is_over(progress) for loss in model.distill_losses.values())
        )

    def _score(self, runner: Runner) -> tuple[str, list[str]]:
        loader = runner.val_dataloader
        batches = math.ceil(self.images / ((loader.batch_size or 1) * get_world_size()))
        try:
            text, warnings = TeacherCheckHook(min(batches, len(loader))).check(runner)
        except Exception as error:  # a run that can train must not end here
            return f'the teacher could not be scored: {type(error).__name__}: {error}', []
        hint = (
            f'(Seen on {self.images} images or a few more: add '
            "custom_hooks=[dict(type='mmkd.TeacherCheckHook')] to look at the whole validation set.)"
        )
        return text, [f'{warning} {hint}' for warning in warnings]
