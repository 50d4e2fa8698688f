"""A teacher that is the moving average of the student."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from mmkd.registry import TEACHERS
from mmkd.structures import Progress

from .base import Teacher


@TEACHERS.register_module()
class AveragedTeacher(Teacher):
    """The moving average of the student's weights: self-distillation, mean teacher (Tarvainen, Valpola; 2017).

    Before iteration i it is ``a_i = m a_(i-1) + (1 - m) w_i`` of the student's weights ``w_i``, and ``a_0 = w_0``; the
    running statistics of normalisation layers are averaged likewise. It sees the student's pixels and has its classes.

    The average is saved with the checkpoint, under ``distill.<name>.*``, so that a resumed run goes on exactly; an
    export leaves it out: the student is what was trained.

    Args:
        momentum: m, at least 0 and less than 1. Published: 0.999.
        student: The student.

    Raises:
        ValueError: ``momentum`` is out of its range.
    """

    def __init__(self, momentum: float = 0.999, *, student: Any) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(
                f'model.teacher.momentum: {momentum} is not at least 0 and less than 1'
            )
        super().__init__(copy.deepcopy(student), student)
        self.momentum = momentum
        self._student = student
        self._started = False
        self._last: int | None = None
        self._state = _State(self)

    @property
    @override
    def module(self) -> nn.Module:
        return self._state

    @torch.no_grad()
    def begin_step(self, progress: Progress) -> None:
        """Take the student's weights into the average once in an iteration; in every step where none are counted."""
        counted = progress.max_iterations is not None
        if self.released or (counted and self._last == progress.iteration):
            return
        ours, theirs = self.model.state_dict(), self._student.state_dict()
        for name, average in ours.items():
            current = theirs[name].to(average.device)
            if self._started and average.is_floating_point():
                average.lerp_(current, 1 - self.momentum)
            else:
                average.copy_(current)
        self._started, self._last = True, progress.iteration

    def _share_memory(self, memo: dict[int, Any]) -> None:
        """Nothing: the average changes in place, and a copy's student goes its own way."""


class _State(nn.Module):
    """The average's place in the checkpoint: no parameters or buffers that anything else could find and train."""

    teacher: Any

    def __init__(self, teacher: AveragedTeacher) -> None:
        super().__init__()
        self.__dict__['teacher'] = teacher
        self._register_state_dict_hook(_save)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the average out of a training checkpoint; with one of a plain student it starts anew."""
        found = {
            key.removeprefix(prefix): value
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
        if found:
            self.teacher.model.load_state_dict(found)
        self.teacher._started, self.teacher._last = bool(found), None


def _save(module: _State, destination: dict[str, Tensor], prefix: str, _: Any) -> None:
    if module.teacher._started and not module.teacher.released:
        for name, tensor in module.teacher.model.state_dict().items():
            destination[f'{prefix}{name}'] = tensor.detach()
