"""Give a config another data folder after it has been parsed."""

from __future__ import annotations

import os.path as osp
from typing import Any

from mmengine.config import Config

from mmkd.utils.cfg_options import merge
from mmkd.utils.settings import settings

DATA_KEYS = tuple(
    f'{split}_{part}' for split in ('train', 'val', 'test') for part in ('dataloader', 'evaluator')
)


def override_data_root(cfg: Config, new_root: str) -> list[str]:
    """Replace the data folder everywhere in the dataloaders and evaluators, in place.

    In MMDetection's configs ``data_root`` is a variable that is expanded while the file is read
    (``ann_file=data_root + 'annotations/...'``), so that setting it afterwards reaches nothing.
    Every path in a dataloader or evaluator that is the old folder, or lies in it, moves with it.

    Args:
        cfg: a config with a top-level ``data_root``, or one whose datasets all name the same one.
        new_root: the folder to use instead.

    Returns:
        The dotted keys that were changed.

    Raises:
        ValueError: the datasets of ``cfg`` have different data folders and there is no top-level
            ``data_root`` to say which one is meant, or no dataset lies in the one it names.
    """
    old_root = _data_root(cfg)
    moved = {
        name: path
        for key in DATA_KEYS
        for name, value in settings(cfg.get(key), key)
        if (path := _moved(value, old_root, new_root)) is not None
    }
    if not moved:
        raise ValueError(
            f'data_root: no dataset of this config lies in its data_root {old_root!r}: set the '
            'paths by their own keys, for example train_dataloader.dataset.data_root'
        )
    merge(cfg, moved)
    if 'data_root' in cfg:
        cfg.data_root = new_root
    return list(moved)


def _data_root(cfg: Config) -> str:
    if cfg.get('data_root'):
        return cfg.data_root
    roots = {
        osp.normpath(root)
        for key in DATA_KEYS
        for name, root in settings(cfg.get(key))
        if name.rpartition('.')[2] == 'data_root' and root and isinstance(root, str)
    }
    if len(roots) != 1:
        raise ValueError(
            f'data_root: the datasets of this config have {len(roots)} data folders '
            f'({", ".join(sorted(roots))}), not one: set each by its own key, for example '
            'train_dataloader.dataset.data_root'
        )
    return roots.pop()


def _moved(path: Any, old_root: str, new_root: str) -> str | None:
    """The same path under the new folder, or None if it is none, or does not lie in the old one."""
    if not isinstance(path, str):
        return None
    old_root = old_root.rstrip('/')
    if path.rstrip('/') == old_root:
        return new_root
    if path.startswith(old_root + '/'):
        return osp.join(new_root, path[len(old_root) :].lstrip('/'))
    return None
