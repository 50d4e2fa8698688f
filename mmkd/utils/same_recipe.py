"""A run is resumed with the recipe that began it: what a checkpoint says of its own is compared, without running it."""

from __future__ import annotations

import ast
import math
import os.path as osp
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

# Of no effect on a resumed run, whose weights are all in the checkpoint.
_WITHOUT_EFFECT = {'init_cfg', 'pretrained', 'test_cfg', 'allow_pickle'}
_PARTS = ('model.student.', 'model.teacher', 'model.losses.', 'model.task_weight')
_FILE_OF_A_TEACHER = re.compile(r'model\.(teacher|teachers\.[^.]+)\.(config|checkpoint)\b')
_LISTED = 8


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
    before = _recipe(_saved_settings(meta.get('cfg')))
    now = _recipe(dict(_settings(cfg.get('model'), 'model')))
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
    return _shorten(essential), _shorten(others)


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


def _saved_settings(text: Any) -> dict[str, Any]:
    """The settings of ``model`` in a config's ``pretty_text``, by dotted key."""
    try:
        for statement in ast.parse(text if isinstance(text, str) else '').body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == 'model':
                return dict(_written_settings(statement.value, 'model'))
    except SyntaxError:
        pass
    raise ValueError('it does not hold the config of its run')


def _written_settings(node: ast.expr, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict':
        for argument in node.args:
            yield from _written_settings(argument, key)
        for keyword in node.keywords:
            yield from _written_settings(keyword.value, f'{key}.{keyword.arg}')
    elif isinstance(node, ast.Dict):
        for name, value in zip(node.keys, node.values, strict=True):
            yield from _written_settings(value, f'{key}.{_written_value(name)}')
    elif isinstance(node, (ast.List, ast.Tuple)):
        for index, value in enumerate(node.elts):
            yield from _written_settings(value, f'{key}.{index}')
    else:
        yield key, _written_value(node)


def _written_value(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:  # a class, or inf
        return ast.unparse(node)  # type: ignore[arg-type]


def _settings(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The same of a config that is loaded."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _settings(value, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _settings(value, f'{key}.{index}')
    elif isinstance(node, type):
        yield (
            key,
            node.__name__
            if node.__module__ == 'builtins'
            else (f'{node.__module__}.{node.__name__}'),
        )
    elif isinstance(node, str | int | None) or (isinstance(node, float) and math.isfinite(node)):
        yield key, node
    else:
        yield key, str(node)


def _shorten(texts: list[str]) -> list[str]:
    more = len(texts) - _LISTED
    return texts[:_LISTED] + [f'... and {more} more'] * (more > 0)
