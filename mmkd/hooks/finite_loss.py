"""Stops a run whose loss or weights are NaN or Inf."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.registry import HOOKS


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Raises an error if the student's total loss is NaN or Inf, or if weights that are NaN or Inf would be saved.

    The Distiller itself checks the distillation losses; this hook covers the student's own. Weights can become NaN in a
    step with a finite loss, or with a loss that is finite only on the process that saves. A gradient scaler (``--amp``)
    skips steps that overflow: with one, the error is raised after ``patience`` such steps in a row.

    Args:
        patience: With a gradient scaler, the number of steps in a row without a finite loss that raises the error.
    """

    priority = 'VERY_HIGH'

    def __init__(self, patience: int = 20) -> None:
        self.patience = patience
        self._in_a_row = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Check the step's losses.

        Raises:
            FloatingPointError: The total is not finite; the message names its parts that are not.
        """
        if not isinstance(outputs, dict) or 'loss' not in outputs:
            return
        if math.isfinite(_number(outputs['loss'])):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row < self.patience and hasattr(runner.optim_wrapper, 'loss_scaler'):
            return
        parts = [
            f'{name} is {_number(value)}'
            for name, value in outputs.items()
            if 'loss' in name and not math.isfinite(_number(value))
        ]
        raise _error(runner, ', '.join(parts))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check the weights.

        Raises:
            FloatingPointError: A trained weight is not finite.
        """
        lost = [
            name
            for name, parameter in runner.model.named_parameters()
            if parameter.requires_grad and not parameter.isfinite().all()
        ]
        if lost:
            raise _error(runner, f'{len(lost)} weights, {lost[0]} first, are NaN or Inf')


def _error(runner: Runner, what: str) -> FloatingPointError:
    return FloatingPointError(
        f'{what} at iteration {runner.iter} (epoch {runner.epoch}). Lower the learning rate or '
        'warm up longer (param_scheduler), or clip gradients (optim_wrapper.clip_grad); then continue with '
        '--resume from the last checkpoint, which was saved before'
    )


def _number(value: Any) -> float:
    return float(torch.as_tensor(value).detach())
