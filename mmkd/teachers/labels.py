"""Names of a data set's classes, in the order of its labels."""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os.path as osp
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.fileio import get_local_path, list_dir_or_file
from mmengine.logging import MessageHub, print_log
from mmengine.registry import DATASETS

_CHUNK = 1 << 16
"""Bytes in which the categories of an annotation file are expected; if they are longer, more is read."""


def names_of_run(number: int) -> Sequence[str] | None:
    """Names of the classes of the data set that the current run trains on, see :func:`label_names`.

    Args:
        number: Classes of the student. A panoptic data set also names its stuff, which a head for boxes does not have.
    """
    hub = MessageHub.get_current_instance()  # filled in by MMEngine's RuntimeInfoHook
    meta = hub.get_info('dataset_meta') or {}
    names, things = meta.get('classes'), meta.get('thing_classes')
    text = hub.get_info('cfg')
    if not names or isinstance(names, str):
        return names
    if text:
        # A Runner that was given objects prints them as <...>.
        with contextlib.suppress(SyntaxError, NameError):
            ordered = label_names(Config.fromstring(text, '.py'), names)
            if list(ordered) != list(names):
                print_log(
                    "classes: metainfo.classes of the data set is in another order than the annotation file's "
                    'categories or the folders, which labels follow. The teacher is matched accordingly, but '
                    f'checkpoints and pictures name the classes wrongly: set metainfo.classes to {tuple(ordered)}',
                    'current',
                    logging.WARNING,
                )
            names = ordered
    if things and len(names) != number == len(things):
        names = [name for name in names if name in things]
    return names


def metainfo_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Metainfo of the data set that a config trains on, including that of its class; empty if there is none.

    Args:
        config: A config, complete or not.
    """
    for node in _datasets((config.get('train_dataloader') or {}).get('dataset')):
        given = dict(node.get('metainfo') or {})
        if node.get('classes'):  # MMPretrain's short form
            given['classes'] = node['classes']
        load = getattr(_class_of(node, config), '_load_metainfo', None)
        return given if load is None else load(given)
    return {}


def label_names(config: Mapping[str, Any], names: Sequence[str]) -> Sequence[str]:
    """Class names in the order of the labels that the data set of a config gives.

    MMDetection's CocoDataset numbers its labels in the order of the annotation file's categories, not in that of
    ``metainfo.classes``. Classes that the file lacks have no label and come last. MMPretrain's CustomDataset numbers
    the labels of images in folders in alphabetical order of the folders.

    Args:
        config: A config with ``train_dataloader``.
        names: The classes as the data set's ``metainfo`` lists them.

    Returns:
        ``names`` in the order of the labels; unchanged if annotation file or folders cannot be read.
    """
    orders = []
    for node in _datasets((config.get('train_dataloader') or {}).get('dataset')):
        kind = _class_of(node, config)
        if _numbers_as('CocoDataset', 'load_data_list', kind):
            orders.append(_order_of_file(node, names))
        elif _numbers_as('CustomDataset', '_find_samples', kind) and not node.get('ann_file'):
            orders.append(_order_of_folders(node, names))
    if any(order != orders[0] for order in orders):
        print_log(
            "the annotation files or folders of the run's data sets have their classes in different orders, so that "
            'one label means different classes: bring them into one order',
            'current',
            logging.WARNING,
        )
    return orders[0] if orders else names


def _datasets(node: Any) -> Iterator[Mapping[str, Any]]:
    """Configs of the data sets within wrappers such as RepeatDataset and ConcatDataset."""
    if not isinstance(node, Mapping):
        return
    if 'datasets' in node or 'dataset' in node:
        for inner in node.get('datasets') or [node.get('dataset')]:
            yield from _datasets(inner)
    else:
        yield node


def _class_of(node: Mapping[str, Any], config: Mapping[str, Any]) -> type | None:
    kind = node.get('type')
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(config.get('default_scope')) as registry:
        return registry.get(kind)


def _numbers_as(name: str, method: str, dataset: type | None) -> bool:
    """Whether a data set inherits this method, which numbers its labels, from the base class of this name.

    LVIS and Objects365 derive from CocoDataset and have their own.
    """
    bases = getattr(dataset, '__mro__', ())
    base = next((base for base in bases if base.__name__ == name), None)
    return base is not None and getattr(dataset, method, None) is getattr(base, method, ...)


def _order_of_file(node: Mapping[str, Any], names: Sequence[str]) -> Sequence[str]:
    path = osp.join(node.get('data_root') or '', node.get('ann_file') or '')
    try:
        with get_local_path(path, backend_args=node.get('backend_args')) as local:
            categories = _read_categories(local)
    except (OSError, ValueError):  # a missing or empty file is reported by the data set itself
        return names
    order = [category['name'] for category in categories if category['name'] in names]
    order += [name for name in names if name not in order]
    return names if sorted(order) != sorted(names) or order == list(names) else tuple(order)


def _order_of_folders(node: Mapping[str, Any], names: Sequence[str]) -> Sequence[str]:
    prefix = node.get('data_prefix') or ''
    if isinstance(prefix, Mapping):
        prefix = prefix.get('img_path') or ''
    path = osp.join(node.get('data_root') or '', prefix)
    try:
        folders = sorted(list_dir_or_file(path, list_dir=True, list_file=False))
    except OSError:
        return names
    return names if sorted(names) != folders or list(names) == folders else tuple(folders)


def _read_categories(path: str) -> list[dict[str, Any]]:
    """``categories`` of an annotation file, without parsing the rest: COCO's file has 450 MB."""
    key = b'"categories"'
    with (
        open(path, 'rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        position = content.rfind(key)  # mostly the last key of the file
        while position >= 0:
            found = _decode_list(content, position + len(key))
            if found and all(isinstance(item, dict) and 'name' in item for item in found):
                return found
            position = content.rfind(key, 0, position)
    return []


def _decode_list(content: mmap.mmap, start: int) -> list[Any]:
    """The JSON list after a key that ends at ``start``; empty if there is none."""
    size = _CHUNK
    while True:
        text = content[start : start + size].decode(errors='ignore').lstrip(' \t\r\n:')
        if not text.startswith('['):
            return []
        try:
            return json.JSONDecoder().raw_decode(text)[0]
        except json.JSONDecodeError:
            if start + size >= len(content):
                return []
            size *= 8
