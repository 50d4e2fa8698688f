"""What hooks that look at a distillation have in common."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd.distillers import Distiller


def distiller_of(runner: Runner, hook: Hook) -> Distiller:
    """The model that ``runner`` trains, out of what wraps it.

    Raises:
        ValueError: It is no distiller.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not isinstance(model, Distiller):
        raise ValueError(  # MMEngine makes a traceback of a TypeError in a hook
            f'{type(hook).__name__} looks at a distillation, but the model is a plain {type(model).__name__}: '
            'take the hook out of custom_hooks, or train a recipe with a teacher'
        )
    return model


def checked_interval(interval: int, hook: Hook) -> int:
    """``interval`` itself.

    Raises:
        ValueError: It is less than 1.
    """
    if interval < 1:
        raise ValueError(
            f'{type(hook).__name__}.interval is {interval}, but must be at least 1: to switch the hook off, take it '
            'out of custom_hooks'
        )
    return interval
