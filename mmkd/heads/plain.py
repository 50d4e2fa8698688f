"""Extracts the plain student's weights from a training checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmkd.functional.aekt import fold_serial_layer
from mmkd.losses.aekt import TASK_LAYER
from mmkd.losses.serial import class_layers

from .base import HEAD_PATHS

DISTILL_PREFIX = 'distill.'
"""Prefix of weights that a distillation adds to the student's."""
_TASK_LAYER = re.compile(rf'{re.escape(DISTILL_PREFIX)}[^.]+\.{TASK_LAYER}\.offset')
"""Matches losses of the student; those of a peer are below the peer's name."""


def plain_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The plain student's weights: without ``distill.*``, and with AEKT's task layer folded in.

    The task layer of ``mmkd.AEKTLoss(serial='distill_then_task')`` is folded into the class layers of the student's
    head. Weights of a plain model are returned unchanged, except for duplicates under second names: in its first step,
    DDQ also makes branches of its head a part of its decoder, where a new model does not have them.

    Args:
        model: A plain student of the same architecture; it is not changed.
        weights: Name to weight; names may begin with ``module.``, as in the moving averages of MMEngine's EMAHook.

    Returns:
        The student's weights under their original names.

    Raises:
        ValueError: There is a task layer, but the class layers of the head are not found or have another size.
    """
    names = {key.removeprefix('module.'): key for key in weights}
    plain = {
        key: weights[key] for name, key in names.items() if not name.startswith(DISTILL_PREFIX)
    }
    for name, key in names.items():
        if _TASK_LAYER.fullmatch(name):
            shift = weights[names[f'{name.removesuffix("offset")}bias']]
            for layer in _class_layers(model, len(shift)):
                keys = [names[f'{layer}.{part}'] for part in ('weight', 'bias')]
                weight, bias = (plain[at] for at in keys)
                plain.update(
                    zip(keys, fold_serial_layer(weight, bias, weights[key], shift), strict=True)
                )
    trained = {name: weights[key] for name, key in names.items() if key in plain}
    for name in _second_names(model, trained):
        del plain[names[name]]
    return plain


def _second_names(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Names that the model lacks, of weights that it has under the same name in another part."""
    known = {name.partition('.')[2]: name for name in model.state_dict() if name in weights}
    found = []
    for name in weights.keys() - model.state_dict().keys():
        first = known.get(name.partition('.')[2])
        if first is not None and torch.equal(weights[name], weights[first]):
            found.append(name)
    return found


def _class_layers(model: nn.Module, num_logits: int) -> list[str]:
    """All names of the class layers of a model."""
    path = next((path for path in HEAD_PATHS if hasattr(model, path)), None)
    head = model if path is None else model.get_submodule(path)
    layers = list(class_layers(head, num_logits).values())
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if any(module is layer for layer in layers)
    ]
