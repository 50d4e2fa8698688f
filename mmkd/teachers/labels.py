"""Names of a data set's classes, in the order of its labels."""

from __future__ import annotations

import contextlib
import logging
import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.fileio import get_local_path, list_dir_or_file
from mmengine.logging import MessageHub, print_log

from mmkd.datasets.configs import class_of, data_sets, has_method_of, read_categories


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
    for _, node in data_sets((config.get('train_dataloader') or {}).get('dataset')):
        given = dict(node.get('metainfo') or {})
        if node.get('classes'):  # MMPretrain's short form
            given['classes'] = node['classes']
        load = getattr(class_of(node, config.get('default_scope')), '_load_metainfo', None)
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
    for _, node in data_sets((config.get('train_dataloader') or {}).get('dataset')):
        kind = class_of(node, config.get('default_scope'))
        # LVIS and Objects365 derive from CocoDataset and number their labels otherwise.
        if has_method_of(kind, 'CocoDataset', 'load_data_list'):
            orders.append(_order_of_file(node, names))
        elif has_method_of(kind, 'CustomDataset', '_find_samples') and not node.get('ann_file'):
            orders.append(_order_of_folders(node, names))
    if any(order != orders[0] for order in orders):
        print_log(
            "the annotation files or folders of the run's data sets have their classes in different orders, so that "
            'one label means different classes: bring them into one order',
            'current',
            logging.WARNING,
        )
    return orders[0] if orders else names


def _order_of_file(node: Mapping[str, Any], names: Sequence[str]) -> Sequence[str]:
    path = osp.join(node.get('data_root') or '', node.get('ann_file') or '')
    try:
        with get_local_path(path, backend_args=node.get('backend_args')) as local:
            categories = read_categories(local)
    except (OSError, ValueError):  # nothing there, an empty file: the data set itself says so
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
