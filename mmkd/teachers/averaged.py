"""A teacher that is a moving average of the student."""

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

    Before iteration i its weights are ``a_i = m a_(i-1) + (1 - m) w_i``, with the student's weights ``w_i`` and
    ``a_0 = w_0``. The running statistics of normalisation layers are averaged in the same way. It sees the student's
    pixels and has its classes.

    Checkpoints include the average, as ``distill.<name>.*``, so that a resumed run continues exactly. An export leaves
    it out.

    Args:
        momentum: m, at least 0 and less than 1; 0.999 in the paper.
        student: The student.

    Raises:
        ValueError: ``momentum`` is out of range.
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
        """Update the average, once per iteration; outside of a run, where none are counted, in every step."""
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
        """Share nothing: the average changes in place, and a copy has a student of its own."""


class _State(nn.Module):
    """Saves and loads the average, but has no parameters or buffers that other code could find and train."""

    teacher: Any

    def __init__(self, teacher: AveragedTeacher) -> None:
        super().__init__()
        self.__dict__['teacher'] = teacher
        self._register_state_dict_hook(_save)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load the average from a training checkpoint; with a plain student's checkpoint it starts again."""
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
