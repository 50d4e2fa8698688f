"""Nothing fails silently: losses that are not finite, or that never do anything."""

from __future__ import annotations

import logging

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmkd.losses import Progress


class LossWatch:
    """Raises on a loss that is not finite and warns of one that was exactly 0 for a whole epoch."""

    def __init__(self) -> None:
        self._epoch = -1
        self._alive: dict[str, bool] = {}

    def check(self, name: str, value: Tensor, progress: Progress) -> None:
        """Look at one step's value of a loss.

        Args:
            name: The loss's name in the recipe.
            value: Its weighted scalar.
            progress: Where training is.

        Raises:
            FloatingPointError: ``value`` is NaN or Inf, unless a float16 gradient scaler is at work: that one skips
                the step and lowers its scale.
        """
        self._start_epoch(int(progress.epoch))
        number = float(value.detach())
        if number - number != 0:  # NaN and Inf alike
            message = (
                f'loss_{name} is {number} at iteration {progress.iteration} (epoch '
                f"{int(progress.epoch)}): the student's logits or features hold NaN or Inf, or its "
                'weight is too large. Lower the learning rate or the weight, or clip gradients '
                '(optim_wrapper.clip_grad)'
            )
            if not _scaler_at_work(value.device.type):
                raise FloatingPointError(message)
            print_log(message + '; left to the gradient scaler', 'current', logging.WARNING)
        self._alive[name] = self._alive.get(name, False) or number != 0
        if progress.ends_epoch:  # now, as there may be no next epoch
            self._report(name)

    def _start_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            for name in list(self._alive):  # those whose weight fell to 0 before the epoch's end
                self._report(name)
            self._epoch = epoch

    def _report(self, name: str) -> None:
        if not self._alive.pop(name):
            print_log(
                f'loss_{name} was exactly 0 in every step of epoch {self._epoch}: it teaches nothing. '
                'Its sampler may pick no sample (mmkd.Positives on data without ground truth?), or '
                'all samples show one object',
                'current',
                logging.WARNING,
            )


def _scaler_at_work(device: str) -> bool:
    """Whether the step runs under float16 autocast, which trains with a gradient scaler."""
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
