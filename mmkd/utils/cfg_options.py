"""``--cfg-options KEY=VALUE ...``: how the values are read, and put into a config."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import FlexibleRunner, Runner

from mmkd.utils.preflight import PreflightError
from mmkd.utils.settings import settings, written_value

_SPACE = '\0'
# What is read from a config, if it is there, beside the arguments of the runners.
_OPTIONAL_KEYS = {
    *('activation_checkpointing', 'compile', 'data_root', 'efficient_conv_bn_eval', 'runner_type'),
    *('find_unused_parameters', 'model_wrapper_cfg', 'sync_bn', 'tta_model', 'tta_pipeline'),
    *(name for kind in (Runner, FlexibleRunner) for name in inspect.signature(kind).parameters),
}


class CfgOptions(DictAction):
    """MMEngine's action, which takes the spaces out of every value and knows no dicts; this one keeps and knows them.

    Lists, tuples and dicts may be written as Python has them, ``weight="dict(type='Stop', at=8)"``, or, lists and
    tuples, without the inner quotes, ``classes="[cat, polar bear]"``.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the settings to those of the namespace; what is no ``KEY=VALUE`` is a usage error."""
        for word in values or ():
            if not re.match(r'[^=\s]+=', word):
                parser.error(
                    f'{option_string} {word}: must be KEY=VALUE, in quotes where it has spaces or brackets'
                )
            try:
                super().__call__(parser, namespace, [word], option_string)
            except (AssertionError, ValueError) as error:
                parser.error(f'{option_string} {word}: {error}')

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        text = val.strip().strip('\'"')
        is_dict = re.match(r'\{.*\}$|dict\(|[\[(].*(\{|\bdict\()', text) is not None
        if is_dict or text.startswith(('[', '(')):
            try:
                return written_value(ast.parse(text, mode='eval').body)
            except (SyntaxError, ValueError):
                if is_dict:
                    raise ValueError(
                        "not a dict as Python writes it: put texts in quotes, {'type': 'Stop', 'at': 8}"
                    ) from None
        elif ',' not in text:
            return DictAction._parse_int_float_bool(text)
        text = re.sub(r'\s*([,()\[\]])\s*', r'\1', text)
        return _with_spaces(DictAction._parse_iterable(text.replace(' ', _SPACE)))


def merge(cfg: Config, options: Mapping[str, Any]) -> None:
    """Put settings into ``cfg``, in place; a dict may replace a number, as a schedule replaces a weight.

    MMEngine's ``merge_from_dict`` alone refuses that, and single numbers in lists, and takes keys that nothing reads.

    Args:
        cfg: The config.
        options: Values by dotted key.

    Raises:
        PreflightError: A key's first part is none that is read, or a key leads to a place that a list does not have.
    """
    if problems := _unknown_keys(cfg, options):
        raise PreflightError(*problems)
    left = dict(options)
    for key, value in options.items():
        names = key.split('.')
        node: Any = cfg
        for depth, name in enumerate(names, start=1):
            place: Any = _place(node, name, key)
            inner = node[place] if isinstance(node, list) else node.get(place)
            leads_on = depth < len(names) or isinstance(value, dict)
            if leads_on and not isinstance(inner, (dict, list)):
                node[place] = list(inner) if isinstance(inner, tuple) else ConfigDict()
                inner = node[place]
            elif not leads_on and isinstance(node, list):
                node[place] = left.pop(key)
            node = inner
    cfg.merge_from_dict(left)


def _place(node: Any, name: str, key: str) -> str | int:
    """The key or index that a part of a dotted key means."""
    if not isinstance(node, list):
        return name
    if name.isdigit() and int(name) < len(node):
        return int(name)
    raise PreflightError(
        f'--cfg-options {key}: there is a list of {len(node)}, which has no place {name}'
    )


def _unknown_keys(cfg: Config, options: Mapping[str, Any]) -> list[str]:
    """Settings that no part of MMEngine, nor of the config, would read, each with those probably meant."""
    known = {*cfg.keys(), *_OPTIONAL_KEYS}
    problems = []
    for key, value in options.items():
        top, _, rest = key.partition('.')
        if top in known:
            continue
        inner = [path for path, _ in settings(dict(cfg.items())) if path.endswith(f'.{top}')][:3]
        alike = (
            inner or get_close_matches(top, cfg.keys(), n=1) or get_close_matches(top, known, n=1)
        )
        near = [f'{path}.{rest}' if rest else path for path in alike]
        hint = f'did you mean {" or ".join(near)}?' if near else 'no setting is called alike'
        problems.append(
            f'--cfg-options {key}={value}: the config has no {top}, so it would change nothing; {hint} (for a part of '
            f'your own that reads it, set {top} in the config)'
        )
    return problems


def _with_spaces(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_SPACE, ' ')
    if isinstance(value, (list, tuple)):
        return type(value)(map(_with_spaces, value))
    return value
