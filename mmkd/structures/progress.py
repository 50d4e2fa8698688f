"""How far training has come."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

from mmengine.logging import MessageHub, print_log


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        iteration: Iterations done so far.
        epoch: Epochs done so far, including the fraction of the current one.
        max_iterations: Iterations of the whole run, None outside of a run.
        max_epochs: Epochs of the whole run, None outside of a run.
    """

    iteration: int = 0
    epoch: float = 0.0
    max_iterations: int | None = None
    max_epochs: int | None = None

    @classmethod
    def current(cls) -> Progress:
        """Read from MMEngine's MessageHub, which RuntimeInfoHook keeps up to date; 0 if no Runner runs."""
        hub = MessageHub.get_current_instance()
        iteration = hub.get_info('iter', 0)
        max_iterations = hub.get_info('max_iters')
        max_epochs = hub.get_info('max_epochs')
        epoch = float(hub.get_info('epoch', 0))
        if max_iterations and max_epochs:
            epoch = iteration * max_epochs / max_iterations
        return cls(iteration, epoch, max_iterations, max_epochs)

    def position(self, by_epoch: bool) -> float:
        """Epochs or iterations done."""
        return self.epoch if by_epoch else float(self.iteration)

    @property
    def ends_epoch(self) -> bool:
        """Whether the current iteration is the last one of its epoch; False outside of a run."""
        if not self.max_iterations or not self.max_epochs:
            return False
        return (self.iteration + 1) * self.max_epochs % self.max_iterations == 0

    def warn_beyond(self, milestone: float, by_epoch: bool, name: str) -> None:
        """Warn once if the run ends before a milestone of a schedule."""
        length = self.max_epochs if by_epoch else self.max_iterations
        one_epoch = by_epoch and length == 1
        if length is None or milestone < length or (milestone == length and not one_epoch):
            return
        unit = 'epoch' if by_epoch else 'iteration'
        comes = 'comes only at the end' if milestone == length else 'never comes'
        text = f'{name}: {unit} {milestone:g} {comes}, as this run counts {length} {unit}{"s"[: length > 1]}'
        if one_epoch:
            text += (
                ' (an IterBasedTrainLoop always counts one): in an iteration-based run set by_epoch=False and give '
                'iterations'
            )
        _warn_once(text)

    def length(self, by_epoch: bool) -> float:
        """Epochs or iterations of the whole run.

        Raises:
            RuntimeError: No Runner runs, so the length is unknown.
        """
        length = self.max_epochs if by_epoch else self.max_iterations
        if length is None:
            raise RuntimeError(
                'a schedule without `end` needs a running MMEngine Runner that knows the length of '
                'training: set `end`'
            )
        return float(length)


@cache
def _warn_once(message: str) -> None:
    print_log(message, 'current', logging.WARNING)
