"""What is wrong with an annotation file, before the programs that read it fail without a word of it."""

from __future__ import annotations

import json
import os
import os.path as osp
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from mmkd.datasets.configs import read_categories

PARSED_JSON_BYTES = 64 << 20
"""Parsing takes long: of larger files, as COCO's 450 MB, only the categories and the end are looked at."""
_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
}


def json_damage(path: str) -> str | None:
    """Why a file is no whole JSON; None if it seems to be."""
    _, damage = _read(path)
    return damage


def coco_damage(path: str, classes: Sequence[str] | None, needs_objects: bool = True) -> str | None:
    """Why a file in COCO's format cannot be learnt or evaluated with.

    Args:
        path: The file.
        classes: The data set's class names; None if nothing says.
        needs_objects: Whether a file without annotated objects is of no use.

    Returns:
        What is wrong, None if nothing is.
    """
    content, damage = _read(path)
    if damage is not None:
        return damage
    if not isinstance(content, dict):
        return (
            f'it holds a {type(content).__name__}, not a dict of images, annotations and categories'
        )
    if not _is_large(path):
        wanted = ['images', 'categories'] + ['annotations'] * needs_objects
        lacking = [name for name in wanted if not content.get(name)]
        if lacking:
            return f'it has no {" and no ".join(lacking)}'
    try:
        names = {category['id']: category['name'] for category in content.get('categories') or ()}
        used = {item.get('category_id') for item in content.get('annotations') or ()} - {None}
    except (AttributeError, KeyError, TypeError) as error:
        return f'its categories and annotations are not what COCO has there ({type(error).__name__}: {error})'
    if not names:
        return None
    if isinstance(classes, str):
        return f'metainfo.classes is the text {classes!r}: give a tuple of names, ({classes!r},)'
    if strange := used - names.keys():
        return f'annotations have the category_id {_few(sorted(strange, key=str))}, which its categories do not have'
    return _strange_names(classes or (), list(names.values())) or _lacking_fields(
        content, needs_objects
    )


def _lacking_fields(content: dict[str, Any], needs_objects: bool) -> str | None:
    """What images or annotations do not say, and MMDetection reads of each."""
    for part, fields in _FIELDS.items():
        items = content.get(part) or ()
        for field in fields:
            count = sum(field not in item for item in items)
            if count:
                return f'{count} of its {len(items)} {part} have no {field!r}'
    images = {item['id'] for item in content.get('images') or ()}
    objects = content.get('annotations') or ()
    if needs_objects and objects and not any(item['image_id'] in images for item in objects):
        return 'the image_id of no annotation is the id of one of its images'
    return None


def _strange_names(classes: Sequence[str], names: list[str]) -> str | None:
    strange = [name for name in classes if name not in names]
    if not strange:
        return None
    lower = {name.lower(): name for name in names}
    near = [lower[hit] for name in strange for hit in get_close_matches(name.lower(), lower, n=1)]
    return (
        f"of the data set's {len(classes)} classes {_few(strange)} are not among the file's {len(names)}, "
        f'{_few(list(dict.fromkeys(near + names)))}: set metainfo.classes of the data set to names as the file has them'
    )


def _read(path: str) -> tuple[Any, str | None]:
    """What a file holds, and why it cannot be read. Of a large one, its categories alone, if they are found."""
    if osp.isdir(path):
        return None, 'it is a folder: name the file'
    with open(path, 'rb') as file:
        if not _is_large(path):
            try:
                return json.load(file), None
            except ValueError as error:
                return None, _damaged(str(error))
        file.seek(-64, os.SEEK_END)
        end = file.read().rstrip()
    if not end.endswith((b'}', b']')):
        return None, _damaged(f'it ends with {end[-20:]!r}')
    return {'categories': read_categories(path)}, None


def _damaged(reason: str) -> str:
    return f'it is truncated or damaged ({reason}): get it again, or make it again'


def _is_large(path: str) -> bool:
    return osp.getsize(path) > PARSED_JSON_BYTES


def _few(names: Sequence[Any], limit: int = 8) -> str:
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(map(repr, names[:limit])) + more
