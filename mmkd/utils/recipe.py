"""A recipe of a plain config: its model wrapped in a Distiller, with a teacher and presets of losses."""

from __future__ import annotations

import copy
import os.path as osp
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS

from mmkd.heads.base import HEAD_PATHS, adapter_of
from mmkd.heads.query import QueryHeadAdapter
from mmkd.registry import CONFIGS
from mmkd.utils.preflight import PreflightError
from mmkd.utils.student_config import is_distiller

PRESETS = CONFIGS / '_base_'


def make_recipe(cfg: Config, teacher: str | None, losses: str | None) -> None:
    """Turn a plain config into a recipe, or give a recipe another teacher or its losses, in place.

    Args:
        cfg: The config of a plain student, or a recipe.
        teacher: ``CONFIG`` or ``CONFIG=CHECKPOINT``, CONFIG being a file or ``mmdet::...``; of the latter the published
            checkpoint is taken where none is given. None keeps the recipe's.
        losses: Names of presets joined by ``+``, such as ``'ckd+pkd'``; see :func:`preset`. None keeps the recipe's.

    Raises:
        PreflightError: The config is plain and one of the two is missing, a recipe has losses already, a name is
            unknown or has no preset for the student's head, or no checkpoint is published for the teacher's config.
    """
    recipe = is_distiller(cfg.model)
    if not recipe and (teacher is None or losses is None):
        missing, has = ('--teacher', '--losses') if teacher is None else ('--losses', '--teacher')
        raise PreflightError(
            [f'{missing}: to distil with the plain config of a student, say {has} and {missing}']
        )
    if losses is not None and recipe and cfg.model.get('losses'):
        raise PreflightError(
            [
                f'--losses: the recipe has losses already ({", ".join(cfg.model.losses)}): take the config of its '
                'student, or of its pair in configs/_base_/pairs, or set model.losses.NAME... by --cfg-options'
            ]
        )
    student = cfg.model.student if recipe else cfg.model
    chosen: dict[str, Any] = {}
    for name in (losses or '').split('+') if losses else ():
        chosen.update(preset(name, student, cfg.get('default_scope')))
    if not recipe:
        cfg.model = dict(type='mmkd.Distiller', student=student, teacher={})
        imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
        imports['imports'] = [*imports['imports'], 'mmkd']
        cfg.custom_imports = imports
    if teacher is not None:
        cfg.model.teacher = _teacher(teacher)
    if losses is not None:
        cfg.model.losses = chosen


def preset(name: str, student: Any, scope: str | None) -> dict[str, Any]:
    """The losses of a method with the settings for a student's head.

    They are those of ``configs/_base_/methods/<name>_<head>.py`` or ``<name>.py``; a classifier's those of
    ``configs/_base_/imagenet_methods.py``, with the settings published for ImageNet, if it has the method.

    Args:
        name: A method, such as ``'ckd'``.
        student: The student's ``model`` config.
        scope: Its ``default_scope``.

    Raises:
        PreflightError: There is no such method, or none for this head; the message names those that there are.
    """
    kinds = head_kinds(student, scope)
    if kinds[0] == 'classifier':
        published = Config.fromfile(PRESETS / 'imagenet_methods.py')
        if name in published:
            return copy.deepcopy(published[name])
    methods = PRESETS / 'methods'
    for file in [f'{name}_{kind}' for kind in kinds] + [name]:
        if (methods / f'{file}.py').exists():
            (losses,) = Config.fromfile(methods / f'{file}.py').values()
            return losses
    files = sorted(path.stem for path in methods.glob('*.py'))
    here = sorted(
        {
            file.removesuffix(f'_{kind}')
            for kind in kinds
            for file in files
            if file.endswith(f'_{kind}')
        }
        | {
            file
            for file in files
            if '_'.join(file.split('_')[:-1]) not in files and not _of_a_head(file)
        }
    )
    near = get_close_matches(name, here, n=2)
    hint = f'did you mean {" or ".join(near)}?' if near else f'there are: {", ".join(here)}'
    raise PreflightError([f'--losses: {name!r} has no preset for a {kinds[0]} head; {hint}'])


def head_kinds(student: Any, scope: str | None) -> list[str]:
    """What presets call a student's head, the most particular name first: ``['rcnn', 'softmax']``."""
    path = next((path for path in HEAD_PATHS if student.get(path)), None)
    if path is None:
        raise PreflightError(
            [f'--losses: {student.get("type")} has none of {", ".join(HEAD_PATHS)}']
        )
    if path == 'head':
        return ['classifier', 'softmax']
    head = student[path]
    kind = MODELS.get(f'{scope}.{head["type"]}') or object
    adapter = adapter_of(kind)
    if path == 'roi_head':
        boxes = head['bbox_head']
        head = boxes[-1] if isinstance(boxes, list | tuple) else boxes
    loss = head.get('loss_cls') or {}
    softmax = loss.get('type') == 'CrossEntropyLoss' or any(
        each.__name__ == 'SSDHead'
        for each in kind.__mro__  # whose config names no loss
    )
    sigmoid = loss.get('use_sigmoid', not softmax)
    activation = 'sigmoid' if sigmoid else 'softmax'
    if adapter is not None and issubclass(adapter, QueryHeadAdapter):
        return ['query', activation]
    return ['rcnn', activation] if path == 'roi_head' else [activation]


def _of_a_head(file: str) -> bool:
    return file.rsplit('_', 1)[-1] in ('rcnn', 'sigmoid', 'softmax', 'query', 'paper')


def _teacher(text: str) -> dict[str, Any]:
    config, _, checkpoint = text.partition('=')
    if checkpoint:
        return dict(config=config, checkpoint=checkpoint)
    if '::' not in config:
        raise PreflightError(
            [
                f'--teacher: a checkpoint is published for configs of MMDetection and MMPretrain only: give '
                f'{osp.basename(config)} its own, --teacher {config}=CHECKPOINT'
            ]
        )
    try:
        published = get_config(config, pretrained=True).get('model_path')
    except (AssertionError, ValueError, FileNotFoundError, ImportError) as error:
        raise PreflightError([f'--teacher: {config}: {error}']) from error
    if not published:
        raise PreflightError(
            [f'--teacher: no checkpoint is published for {config}: --teacher {config}=CHECKPOINT']
        )
    return dict(config=config, checkpoint=published)
