"""MMEngine registries of the ``mmkd`` scope, and building with errors that name the mistake.

``MODELS``, ``HOOKS``, ``DATASETS`` and ``TRANSFORMS`` are children of MMEngine's own, so that a Runner finds
``mmkd.Distiller``.
``TEACHERS``, ``LOSSES``, ``SAMPLERS``, ``SCHEDULES`` and ``CONNECTORS`` hold what only a Distiller builds.
The package's configs are known to MMEngine as ``mmkd::ckd/retinanet_r101_r50.py``, as MMDetection's are by ``mmdet::``.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

CONFIGS = Path(__file__).parent / '.mim' / 'configs'
"""The folder of the package's configs."""

MODULE2PACKAGE.setdefault('mmkd', 'mmkd')

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmkd', locations=['mmkd.distillers'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmkd', locations=['mmkd.hooks'])
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope='mmkd', locations=['mmkd.datasets.seeded_views']
)
TRANSFORMS = Registry(
    'transform', parent=MMENGINE_TRANSFORMS, scope='mmkd', locations=['mmkd.datasets.unreadable']
)
TEACHERS = Registry('teacher', scope='mmkd', locations=['mmkd.teachers'])
LOSSES = Registry('loss', scope='mmkd', locations=['mmkd.losses'])
SAMPLERS = Registry('sampler', scope='mmkd', locations=['mmkd.losses'])
CONNECTORS = Registry('connector', scope='mmkd', locations=['mmkd.connectors'])
SCHEDULES = Registry('schedule', scope='mmkd', locations=['mmkd.losses'])


def build(registry: Registry, config: Mapping[str, Any], where: str) -> Any:
    """Build what ``config`` describes, or say what is wrong with it.

    Args:
        registry: One of this module's registries.
        config: ``dict(type='mmkd.Name', **options)``; the prefix ``mmkd.`` may be left out.
        where: The config's place in the recipe, for the error, such as ``model.losses.ckd``.

    Returns:
        The built object.

    Raises:
        TypeError: ``config`` is not a dict with a ``type``, or has an option that the type does not take.
        ValueError: No such type is registered; the message suggests the nearest names.

        What the type itself raises of an option names the option by its full key.
    """
    if not isinstance(config, Mapping) or 'type' not in config:
        raise TypeError(
            f'{where}: expected dict(type=..., ...) for a {registry.name}, got {config!r}'
        )
    options = dict(config)
    kind = options.pop('type')
    if not inspect.isclass(kind) and not isinstance(kind, str):
        raise TypeError(f'{where}.type: expected the name of a {registry.name}, got {kind!r}')
    target = kind if inspect.isclass(kind) else _find(registry, kind, where)
    try:
        inspect.signature(target).bind(**options)
    except TypeError as error:
        known = ', '.join(inspect.signature(target).parameters)
        raise TypeError(f'{where}: {target.__name__}: {error}; its options are: {known}') from None
    try:
        return target(**options)
    except (TypeError, ValueError) as error:
        # A class knows itself by its name only; the user, by the setting that it was built from.
        name, text = f'{target.__name__}.', str(error)
        if not text.startswith(name):
            raise
        raise type(error)(f'{where}.{text.removeprefix(name)}') from error


def _find(registry: Registry, kind: str, where: str) -> type:
    registry.import_from_location()
    name = kind.removeprefix('mmkd.')
    if name in registry.module_dict:
        return registry.module_dict[name]
    if '.' in kind:  # a registered class of another package: 'package.module.Class'
        with contextlib.suppress(RuntimeError):
            found = registry.get(kind)
            if found is not None:
                return found
    names = sorted(registry.module_dict)
    lower = {known.lower(): known for known in names}
    near = [lower[hit] for hit in difflib.get_close_matches(name.lower(), lower, n=5, cutoff=0.5)]
    hint = f'did you mean {" or ".join(near)}?' if near else f'registered are: {", ".join(names)}'
    raise ValueError(f'{where}: no {registry.name} is registered as {kind!r}; {hint}')
