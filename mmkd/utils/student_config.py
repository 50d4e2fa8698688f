"""From a distillation recipe and its checkpoint to the plain student."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

DISTILL_PREFIX = 'distill.'


def is_distiller(model: Any) -> bool:
    """Whether a ``model`` config wraps a student and its teacher."""
    return isinstance(model, dict) and 'student' in model and 'teacher' in model


def student_config(cfg: Config) -> Config:
    """Return the config of the student alone, that a distillation recipe trains.

    ``model`` becomes ``model.student`` and hooks of the ``mmkd`` scope, which watch a distillation,
    are left out, so neither the teacher's config nor its checkpoint is needed to build it.
    Datasets, evaluators and schedule stay as they are.

    Args:
        cfg: a recipe, or the config of a plain model. It is not changed.

    Returns:
        A new config; an equal copy of ``cfg`` if its model is not a distiller.
    """
    cfg = copy.deepcopy(cfg)
    if not is_distiller(cfg.get('model')):
        return cfg
    cfg.model = cfg.model.student
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [
            hook for hook in cfg.custom_hooks if not str(hook.get('type')).startswith('mmkd.')
        ]
    return cfg


class DropDistillWeights(Hook):
    """Remove the trainable extras of a distillation (``distill.*``) from a loaded checkpoint.

    A plain student has no place for them, and MMEngine would report each as an unexpected key.
    The hook must run before ``EMAHook`` reads the checkpoint, hence its priority.
    """

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop ``distill.*`` from the weights and from their moving average."""
        for key in ('state_dict', 'ema_state_dict'):
            weights = checkpoint.get(key, {})
            for name in list(weights):
                if name.removeprefix('module.').startswith(DISTILL_PREFIX):
                    del weights[name]
