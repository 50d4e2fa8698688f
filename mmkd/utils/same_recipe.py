"""A run is resumed with the recipe that began it: what a checkpoint says of its own is compared, without running it."""

from __future__ import annotations

import ast
import os.path as osp
import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmkd.checkpoints import shorten
from mmkd.utils.settings import settings, written_value

# Of no effect on a resumed run, whose weights are all in the checkpoint.
_WITHOUT_EFFECT = {'init_cfg', 'pretrained', 'test_cfg', 'allow_pickle'}
_PARTS = ('model.student.', 'model.teacher', 'model.losses.', 'model.task_weight')
_FILE_OF_A_TEACHER = re.compile(r'model\.(teacher|teachers\.[^.]+)\.(config|checkpoint)\b')


def differences(cfg: Config, meta: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compare a run's model with that of the run that saved a checkpoint.

    Args:
        cfg: The config of the run that is to go on.
        meta: ``meta`` of the checkpoint, in which MMEngine keeps the text of the config.

    Returns:
        What makes it another recipe, and what else has changed, a text for each setting. Another recipe has another
        teacher, or another type of anything in the losses or the student. Files may have moved.

    Raises:
        ValueError: The checkpoint does not say how its run was configured.
    """
    texts = meta.get('cfg'), Config(dict(model=cfg.model)).pretty_text
    before, now = (_recipe(_leaves(text)) for text in texts)
    distilled = [_is_distillation(model) for model in (before, now)]
    if distilled[0] != distilled[1]:
        kinds = ['a distillation' if one else 'a plain model' for one in distilled]
        return [f'model was {kinds[0]}, is {kinds[1]}'], []
    essential: list[str] = []
    others: list[str] = []
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            text = f'{key} was {before.get(key)!r}, is {now.get(key)!r}'
            (essential if _is_essential(key) else others).append(text)
    return shorten(essential), shorten(others)


def _is_essential(key: str) -> bool:
    return key.endswith('.type') or _FILE_OF_A_TEACHER.match(key) is not None


def _is_distillation(model: dict[str, Any]) -> bool:
    return any(key.startswith('model.student.') for key in model)


def _recipe(model: dict[str, Any]) -> dict[str, Any]:
    """The settings that a recipe is made of; of files the names, as they may have moved."""
    parts = _PARTS if _is_distillation(model) else ('model.',)
    recipe = {}
    for key, value in model.items():
        if key.startswith(parts) and not _WITHOUT_EFFECT.intersection(key.split('.')):
            file = isinstance(value, str) and _FILE_OF_A_TEACHER.fullmatch(key)
            recipe[key] = osp.basename(value) if file else value
    return recipe


def _leaves(text: Any) -> dict[str, Any]:
    """The settings of ``model`` in a config's ``pretty_text``, by dotted key; what is no literal as its text."""

    def value_or_text(node: ast.expr) -> Any:
        try:
            return ast.literal_eval(node)
        except ValueError:  # a class, or inf
            return ast.unparse(node)

    try:
        for statement in ast.parse(text if isinstance(text, str) else '').body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == 'model':
                model = written_value(statement.value, value_or_text)
                found = settings(model, 'model')
                return {
                    key: value for key, value in found if not isinstance(value, dict | list | tuple)
                }
    except SyntaxError:
        pass
    raise ValueError('it does not hold the config of its run')
