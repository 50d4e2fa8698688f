"""The data sets that a config names, and the categories of an annotation file."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import DATASETS

_CHUNK = 1 << 16
"""Bytes that the categories of an annotation file are first looked for in; a longer list takes more."""


def data_sets(node: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Configs of the data sets within wrappers such as RepeatDataset and ConcatDataset.

    Args:
        node: The config of a data set, or nothing.
        key: Its dotted key.

    Yields:
        Dotted key and config of each.
    """
    if not isinstance(node, Mapping):
        return
    if 'dataset' in node:
        yield from data_sets(node['dataset'], f'{key}.dataset')
    elif 'datasets' in node:
        for index, inner in enumerate(node['datasets']):
            yield from data_sets(inner, f'{key}.datasets.{index}')
    else:
        yield key, node


def class_of(node: Mapping[str, Any], scope: str | None) -> Any:
    """The class of the data set of a config; None if it is not known."""
    kind = node.get('type')
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(node.get('_scope_', scope)) as registry:
        return registry.get(kind)


def has_method_of(kind: Any, base: str, method: str) -> bool:
    """Whether a data set's class has a method of a base class, which subclasses may have replaced."""
    return getattr(getattr(kind, method, None), '__qualname__', '') == f'{base}.{method}'


def read_categories(path: str) -> list[dict[str, Any]]:
    """``categories`` of an annotation file, without parsing the rest: COCO's has 450 MB."""
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
    """The JSON list that follows a key at ``start``; empty where none does."""
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
