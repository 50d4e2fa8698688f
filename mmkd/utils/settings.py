"""The settings of a config by their dotted keys, as ``--cfg-options`` names them, and values as configs write them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
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


def written_value(node: ast.expr, other: Callable[[ast.expr], Any] = ast.literal_eval) -> Any:
    """What an expression of a config says, without executing it: literals, and ``dict(a=1)`` as ``{'a': 1}``.

    Args:
        node: The expression.
        other: Says what a part that is neither a dict nor a list or tuple means.

    Raises:
        ValueError: A part is no literal, if ``other`` is not given.
    """
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict' and not node.args:
        return {item.arg: written_value(item.value, other) for item in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key and ast.literal_eval(key): written_value(value, other) for key, value in pairs}
    if isinstance(node, ast.List | ast.Tuple):
        items = [written_value(item, other) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    return other(node)
