"""Helpers of hooks that need a distiller."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd.distillers import Distiller


def distiller_of(runner: Runner, hook: Hook) -> Distiller:
    """The distiller that ``runner`` trains, without its wrappers.

    Raises:
        ValueError: The model is no distiller.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not isinstance(model, Distiller):
        raise ValueError(  # MMEngine would print a traceback for a TypeError in a hook
            f'{type(hook).__name__} needs a distillation, but the model is a plain {type(model).__name__}: '
            'take the hook out of custom_hooks, or train a recipe with a teacher'
        )
    return model


def checked_interval(interval: int, hook: Hook) -> int:
    """Return ``interval`` if it is valid.

    Raises:
        ValueError: It is less than 1.
    """
    if interval < 1:
        raise ValueError(
            f'{type(hook).__name__}.interval is {interval}, but must be at least 1: to switch the hook off, take it '
            'out of custom_hooks'
        )
    return interval
