"""A recipe of a plain config: its model wrapped in a Distiller, with a teacher and presets of losses."""

from __future__ import annotations

import copy
import os.path as osp
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import permutations
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS

from mmkd.heads.base import HEAD_PATHS, adapter_of
from mmkd.heads.query import QueryHeadAdapter
from mmkd.registry import CONFIGS, LOSSES
from mmkd.teachers import RANDOM_INIT
from mmkd.utils.preflight import PreflightError
from mmkd.utils.student_config import is_distiller

HEADS = ('classifier', 'rcnn', 'query', 'dense', 'detector', 'softmax', 'sigmoid')
"""What a preset can be for, as the end of its name."""


def make_recipe(
    cfg: Config, teacher: str | None, losses: str | None, untrained: bool = False
) -> None:
    """Turn a plain config into a recipe, or give a recipe another teacher or its losses, in place.

    Args:
        cfg: The config of a plain student, or a recipe.
        teacher: ``CONFIG`` or ``CONFIG=CHECKPOINT``, CONFIG being a file or ``mmdet::...``; of the latter the published
            checkpoint is taken where none is given. None keeps the recipe's.
        losses: Names of presets joined by ``+``, such as ``'ckd+pkd'``; see :func:`preset`. None keeps the recipe's.
        untrained: The teacher needs no checkpoint.

    Raises:
        PreflightError: The config is plain and one of the two is missing, a recipe has losses already, a name is
            unknown or has no preset for the student's head, or no checkpoint is published for the teacher's config.
    """
    recipe = is_distiller(cfg.model)
    if not recipe and (teacher is None or losses is None):
        missing, has = ('--teacher', '--losses') if teacher is None else ('--losses', '--teacher')
        raise PreflightError(
            f'{missing}: to distil with the plain config of a student, say {has} and {missing}'
        )
    if losses is not None and recipe and cfg.model.get('losses'):
        raise PreflightError(
            f'--losses: the recipe has losses already ({", ".join(cfg.model.losses)}): take the config of its '
            'student, or of its pair in configs/_base_/pairs, or set model.losses.NAME... by --cfg-options'
        )
    if teacher is not None and cfg.model.get('teachers'):
        raise PreflightError(
            f'--teacher: the recipe has several teachers ({", ".join(cfg.model.teachers)}): set '
            'model.teachers.NAME.config and .checkpoint by --cfg-options'
        )
    student = cfg.model.student if recipe else cfg.model
    chosen: dict[str, Any] = {}
    if losses is not None:
        names = losses.split('+')
        chosen = preset(names, student, cfg.get('default_scope'), cfg.get('presets') or {})
    if not recipe:
        cfg.model = dict(type='mmkd.Distiller', student=student, teacher={})
        imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
        named = imports.get('imports') or []  # one name may stand there without a list
        imports['imports'] = [*([named] if isinstance(named, str) else named), 'mmkd']
        cfg.custom_imports = imports
    if teacher is not None:
        cfg.model.teacher = _teacher(teacher, untrained)
    if losses is not None:
        if (task_weight := chosen.pop('task_weight', None)) is not None:
            cfg.model.task_weight = task_weight
        cfg.model.losses = chosen


def preset(
    names: Sequence[str], student: Any, scope: str | None, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The losses of some methods with the settings for a student's head.

    They are those of the variable ``<name>_<head>``, or ``<name>``, in the files of ``configs/_base_/methods``, changed
    by what ``own`` has under the method's name and, of several, under their names joined by ``_``.

    Args:
        names: Methods, such as ``['ckd', 'pkd']``.
        student: The student's ``model`` config.
        scope: Its ``default_scope``.
        own: What is published for the student or the pair: ``presets`` of its config.

    Returns:
        Losses by name. Beside them ``task_weight``, where one method alone, or ``own`` for several, sets the weight of
        the student's own loss; with several it is else left at 1.

    Raises:
        PreflightError: There is no such method, or none for this head; the message names those that there are.
    """
    own = own or {}
    kinds = head_kinds(student, scope)
    chosen = Config({})
    for name in names:
        chosen.merge_from_dict(_general(name, kinds))
        chosen.merge_from_dict(dict(own.get(name, {})))
    if len(names) > 1:
        chosen.pop('task_weight', None)
        for order in permutations(names):
            chosen.merge_from_dict(dict(own.get('_'.join(order), {})))
    return chosen.to_dict()


def presets_of(kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every method's preset for the kinds of head that :func:`head_kinds` gives, by the method's name."""
    suffixes = [*kinds, '']
    found = {
        method: min((each for each in forms if each in suffixes), key=suffixes.index, default=None)
        for method, forms in _written().items()
    }
    return {
        method: _written()[method][form]
        for method, form in found.items()
        if form is not None and _unsuited(_written()[method][form], kinds) is None
    }


def method_names() -> list[str]:
    """All methods that have a preset, for whatever head."""
    return list(_written())


def _general(name: str, kinds: Sequence[str]) -> dict[str, Any]:
    """A method's preset for a head.

    Raises:
        PreflightError: There is none.
    """
    here = presets_of(kinds)
    if name in here:
        return copy.deepcopy(here[name])
    others = [_unsuited(losses, kinds) for losses in _written().get(name, {}).values()]
    near = get_close_matches(name, here, n=2)
    if alternative := next(filter(None, others), None):
        hint = f'use {alternative}'
    elif near:
        hint = f'did you mean {" or ".join(near)}?'
    else:
        hint = f'there are: {", ".join(here)}'
    head = f'{kinds[0]} head ({kinds[-1]})'
    raise PreflightError(f'--losses: {name!r} has no preset for a {head}; {hint}')


def named(file: str, variable: str) -> tuple[str, str]:
    """The method that a variable has the preset of, and the kind of head it is for, ``''`` for all.

    Args:
        file: The file's name without ``.py``.
        variable: Its name. The kind is the end of it, or of the file's name where that begins with the variable's.
    """
    method, _, kind = (file if file.startswith(f'{variable}_') else variable).rpartition('_')
    return (method, kind) if kind in HEADS else (variable, '')


@cache
def _written() -> dict[str, dict[str, dict[str, Any]]]:
    """All presets: by the method, and by the kind of head, or ``''``."""
    written: dict[str, dict[str, dict[str, Any]]] = {}
    for file in sorted((CONFIGS / '_base_' / 'methods').glob('*.py')):
        for name, losses in Config.fromfile(file).to_dict().items():
            method, kind = named(file.stem, name)
            written.setdefault(method, {})[kind] = losses
    return dict(sorted(written.items()))


def _unsuited(losses: Mapping[str, Any], kinds: Sequence[str]) -> str | None:
    """What to use in place of losses that mean nothing on such a head; None if all do."""
    LOSSES.import_from_location()
    for loss in losses.values():
        kind = LOSSES.get(loss['type']) if isinstance(loss, Mapping) else None
        if kind is not None and getattr(kind, 'activation', None) not in (None, kinds[-1]):
            return kind.alternative
    return None


def head_kinds(student: Any, scope: str | None) -> list[str]:
    """What presets call a student's head, the most particular name first: ``['rcnn', 'detector', 'softmax']``."""
    path = next((path for path in HEAD_PATHS if student.get(path)), None)
    if path is None:
        raise PreflightError(f'--losses: {student.get("type")} has none of {", ".join(HEAD_PATHS)}')
    if path == 'head':
        return ['classifier', 'softmax']
    head = student[path]
    kind = head['type']
    if isinstance(kind, str):  # a config in pure Python has the class itself
        kind = MODELS.get(f'{scope}.{kind}') or object
    adapter = adapter_of(kind)
    if path == 'roi_head':
        boxes = head['bbox_head']
        head = boxes[-1] if isinstance(boxes, list | tuple) else boxes
    loss = head.get('loss_cls') or {}
    of_loss = loss.get('type')
    softmax = getattr(of_loss, '__name__', of_loss) == 'CrossEntropyLoss' or any(
        each.__name__ == 'SSDHead'
        for each in kind.__mro__  # whose config names no loss
    )
    sigmoid = loss.get('use_sigmoid', not softmax)
    activation = 'sigmoid' if sigmoid else 'softmax'
    if adapter is not None and issubclass(adapter, QueryHeadAdapter):
        return ['query', 'detector', activation]
    return ['rcnn' if path == 'roi_head' else 'dense', 'detector', activation]


def _teacher(text: str, untrained: bool) -> dict[str, Any]:
    # A folder's name may have an equals sign, too; a config's has an ending.
    named = re.fullmatch(r'(.+?\.(?:py|json|ya?ml))(?:=(.*))?', text)
    config, checkpoint = named.groups() if named else text.partition('=')[::2]
    if checkpoint or untrained:
        return dict(config=config, checkpoint=checkpoint or RANDOM_INIT)
    if '::' not in config:
        raise PreflightError(
            f'--teacher: a checkpoint is published for configs of MMDetection and MMPretrain only: give '
            f'{osp.basename(config)} its own, --teacher {config}=CHECKPOINT'
        )
    try:
        published = get_config(config, pretrained=True).get('model_path')
    except (AssertionError, ValueError, FileNotFoundError, ImportError) as error:
        raise PreflightError(f'--teacher: {config}: {error}') from error
    if not published:
        raise PreflightError(
            f'--teacher: no checkpoint is published for {config}: --teacher {config}=CHECKPOINT'
        )
    return dict(config=config, checkpoint=published)
