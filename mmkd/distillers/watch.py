"""Reports losses that are not finite, or that are always 0."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmkd.functional.compat import autocast_dtype
from mmkd.structures import Progress, Step
from mmkd.teachers.stored import StoredPass

_ITERATIONS = 1000


@dataclass(frozen=True)
class _Reading:
    """A loss value that is being copied to the host."""

    name: str
    number: Tensor
    arrived: Callable[[], bool]
    progress: Progress
    scaled: bool


class LossWatch:
    """Raises an error on a loss that is not finite; warns of one that was exactly 0 for a whole epoch.

    Iteration-based runs have a single epoch: there, every 1000 iterations count as one. A value on a GPU is copied to
    the host without waiting and checked once it is there: a step later, or at the end of the epoch.
    """

    def __init__(self) -> None:
        self._span = -1
        self._last = 0
        self._by_epoch = True
        self._alive: dict[str, bool] = {}
        self._readings: list[_Reading] = []

    def check(self, name: str, value: Tensor, progress: Progress, step: Step) -> None:
        """Check the value of a loss in one step.

        Args:
            name: The loss's name in the log.
            value: Its weighted scalar.
            progress: How far training has come.
            step: The step, to see whether the teacher is the cause.

        Raises:
            FloatingPointError: ``value`` is NaN or Inf. Not raised if the teacher's outputs are finite and a float16
                gradient scaler is at work, which skips the step and lowers its scale.
        """
        number, arrived = _to_host(value.detach())
        # Under float16 autocast, training uses a gradient scaler.
        scaled = autocast_dtype(value.device.type) == torch.float16
        self._readings.append(_Reading(name, number, arrived, progress, scaled))
        last_of_span = (progress.iteration + 1) % _ITERATIONS == 0
        ends = progress.ends_epoch or (progress.max_epochs == 1 and last_of_span)
        if ends and value.is_cuda:
            torch.cuda.synchronize(value.device)
        while self._readings and self._readings[0].arrived():
            self._read(self._readings.pop(0), step)

    def _read(self, reading: _Reading, step: Step) -> None:
        name, progress = reading.name, reading.progress
        by_epoch = progress.max_epochs != 1
        self._start(int(progress.epoch) if by_epoch else progress.iteration // _ITERATIONS)
        self._last = progress.iteration
        number = float(reading.number)
        if not math.isfinite(number):
            message = f'{name} is {number} at iteration {progress.iteration} (epoch {int(progress.epoch)}): '
            fault = _fault_of_teacher(step)
            if fault is not None:
                raise FloatingPointError(message + fault)
            message += (
                "the student's logits or features hold NaN or Inf, or its weight is too large. Lower the learning rate "
                'or the weight, or clip gradients (optim_wrapper.clip_grad)'
            )
            if not reading.scaled:
                raise FloatingPointError(message)
            print_log(message + '; left to the gradient scaler', 'current', logging.WARNING)
        self._alive[name] = self._alive.get(name, False) or number != 0
        last_of_span = not by_epoch and (progress.iteration + 1) % _ITERATIONS == 0
        if progress.ends_epoch or last_of_span:  # there may be no next step
            self._report(name, by_epoch)
        self._by_epoch = by_epoch

    def _start(self, span: int) -> None:
        if span != self._span:
            for name in list(self._alive):  # losses whose weight fell to 0 before the span's end
                self._report(name, self._by_epoch)
            self._span = span

    def _report(self, name: str, by_epoch: bool) -> None:
        span = f'iterations {self._span * _ITERATIONS} to {self._last}'
        if by_epoch:
            span = f'epoch {self._span}'
        if not self._alive.pop(name):
            print_log(
                f'{name} was exactly 0 in every step of {span}: it teaches nothing. '
                'Its sampler may pick no sample (mmkd.Positives on data without ground truth?), or '
                'all samples show one object',
                'current',
                logging.WARNING,
            )


def _to_host(value: Tensor) -> tuple[Tensor, Callable[[], bool]]:
    """A value's copy in host memory, and a function that tells whether it has arrived."""
    if not value.is_cuda:
        return value, lambda: True
    copy = torch.empty_like(value, device='cpu', pin_memory=True)
    copy.copy_(value, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event.query


def _fault_of_teacher(step: Step) -> str | None:
    """What is wrong with the teacher's outputs, if they are not finite."""
    for request, answers in step.answers.items():
        for number, answer in enumerate(answers):
            for part in ('teacher', 'teacher_distributions'):
                values = getattr(answer, part, None)
                if values is None or torch.isfinite(values).all():
                    continue
                bad = int((~torch.isfinite(values)).flatten(1).any(dim=1).sum())
                fault = (
                    f'the outputs of {request.teacher!r} ({type(request).__name__} {number}) hold NaN or Inf in '
                    f'{bad} of {len(values)} samples: '
                )
                if isinstance(step.teachers.get(request.teacher), StoredPass):
                    return fault + (
                        "teacher.store has no rows of samples that the student's assigner did not make positive when "
                        'it was made, be it by rounding on another machine: make it where the student trains, or set '
                        "samples=dict(type='mmkd.TeacherTopK', k=64)"
                    )
                return fault + (
                    'check teacher.checkpoint (a diverged run?); under --amp the teacher may overflow in float16: '
                    "train without it, or with optim_wrapper.dtype='bfloat16'"
                )
    return None
