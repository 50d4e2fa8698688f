"""Nothing fails silently: losses that are not finite, or that never do anything."""

from __future__ import annotations

import logging

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmkd.losses import Progress

_ITERATIONS = 1000


class LossWatch:
    """Raises on a loss that is not finite and warns of one that was exactly 0 for a whole epoch.

    A run that counts iterations has one epoch only: there it is every 1000 iterations.
    """

    def __init__(self) -> None:
        self._span = -1
        self._by_epoch = True
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
        by_epoch = progress.max_epochs != 1
        self._start(int(progress.epoch) if by_epoch else progress.iteration // _ITERATIONS)
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
        last_of_span = not by_epoch and (progress.iteration + 1) % _ITERATIONS == 0
        if progress.ends_epoch or last_of_span:  # now, as there may be no next step
            self._report(name, by_epoch)
        self._by_epoch = by_epoch

    def _start(self, span: int) -> None:
        if span != self._span:
            for name in list(self._alive):  # those whose weight fell to 0 before the span's end
                self._report(name, self._by_epoch)
            self._span = span

    def _report(self, name: str, by_epoch: bool) -> None:
        first = self._span * _ITERATIONS
        span = (
            f'epoch {self._span}'
            if by_epoch
            else f'iterations {first} to {first + _ITERATIONS - 1}'
        )
        if not self._alive.pop(name):
            print_log(
                f'loss_{name} was exactly 0 in every step of {span}: it teaches nothing. '
                'Its sampler may pick no sample (mmkd.Positives on data without ground truth?), or '
                'all samples show one object',
                'current',
                logging.WARNING,
            )


def _scaler_at_work(device: str) -> bool:
    """Whether the step runs under float16 autocast, which trains with a gradient scaler."""
    if not hasattr(torch, 'get_autocast_dtype'):  # PyTorch before 2.4
        return torch.is_autocast_enabled() and torch.get_autocast_gpu_dtype() == torch.float16
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
