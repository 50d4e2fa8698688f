"""The settings of a config by their dotted keys, as ``--cfg-options`` names them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def settings(node: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Go through everything in nested dicts and lists, outer before inner.

    Args:
        node: A dict, list or tuple; anything else holds nothing.
        key: The dotted key of ``node`` itself.

    Yields:
        Dotted key and value of each setting.
    """
    items: Any = ()
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    for name, value in items:
        inner = f'{key}.{name}' if key else str(name)
        yield inner, value
        yield from settings(value, inner)


def pretrained_parts(node: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """The settings of a model that start a part of it from weights in a file, ``dict(type='Pretrained', ...)``."""
    for inner, value in settings(node, key):
        if (
            isinstance(value, dict)
            and value.get('type') == 'Pretrained'
            and isinstance(value.get('checkpoint'), str)
        ):
            yield inner, value
