"""From a distillation recipe and its checkpoint to the plain student."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmkd.heads import plain_weights


def is_distiller(model: Any) -> bool:
    """Whether a ``model`` config wraps a student and its teachers."""
    return (
        isinstance(model, dict)
        and 'student' in model
        and bool({'teacher', 'teachers'} & model.keys())
    )


def teacher_configs(model: Any) -> dict[str, Any]:
    """The configs of the teachers of a ``model`` config, by their keys in it; empty for a plain model."""
    if not is_distiller(model):
        return {}
    named = {'model.teacher': model.get('teacher')}
    for name, config in (model.get('teachers') or {}).items():
        named[f'model.teachers.{name}'] = config
    return {key: config for key, config in named.items() if config is not None}


def student_config(cfg: Config) -> Config:
    """Return the config of the student alone, that a distillation recipe trains.

    ``model`` becomes ``model.student``; hooks of the ``mmkd`` scope, which watch a distillation, and
    the import of ``mmkd`` are left out, so that neither the teacher nor this package is needed to
    build it. Datasets, evaluators, schedule and imports of other packages stay as they are.

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
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if not _is_ours(hook.get('type'))]
    imports = (cfg.get('custom_imports') or {}).get('imports')
    if imports:
        imports = [imports] if isinstance(imports, str) else list(imports)
        cfg.custom_imports.imports = [name for name in imports if name.split('.')[0] != 'mmkd']
        if not cfg.custom_imports.imports:
            cfg.pop('custom_imports')
    return cfg


def _is_ours(hook: Any) -> bool:
    """Whether a hook's ``type``, a name or a class, is of this package."""
    return str(getattr(hook, '__module__', hook)).split('.')[0] == 'mmkd'


def unwrapped_model(runner: Runner) -> nn.Module:
    """The model of a run without what distributes or augments it, under whose names weights are saved."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


class DropDistillWeights(Hook):
    """Make the weights of a loaded training checkpoint the plain student's, see :func:`mmkd.heads.plain_weights`.

    A plain student has no place for the trainable extras of a distillation (``distill.*``), and MMEngine would report
    each as an unexpected key. The hook must run before ``EMAHook`` reads the checkpoint, hence its priority.
    """

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop or fold ``distill.*`` of the weights and of their moving average."""
        model = unwrapped_model(runner)
        for key in ('state_dict', 'ema_state_dict'):
            weights = checkpoint.get(key, {})
            plain = plain_weights(model, weights)
            for name in [name for name in weights if name not in plain]:
                del weights[name]
            weights.update(plain)
