"""The arithmetic of student and teacher: the teacher's own number type, compiled parts, channels-last memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
COMPILED_PARTS = ('backbone', 'neck')
"""Parts of a network that are compiled: those that compute most and whose input is one tensor after the other."""


class TeacherPrecision:
    """The number type that a frozen network computes in, whatever the student's is.

    float16 and bfloat16: convolutions and linear layers hold and multiply such numbers; the rest is left to autocast,
    and normalisation keeps its float32 parameters. Feature maps and what the heads put out are float32 again: RoI
    extractors read boxes in the type of the maps, and bfloat16 knows pixels beyond 256 in steps of 2 and more only;
    and a student's autocast refuses the other half-precision type.

    Args:
        model: The network; its weights are converted in place.
        dtype: ``'float32'``, ``'float16'``, ``'bfloat16'``; None is the type of the student's step, autocast or not.

    Raises:
        ValueError: ``dtype`` is unknown.
    """

    def __init__(self, model: Any, dtype: str | None) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f'model.teacher.dtype: {dtype!r} is none of {", ".join(DTYPES)}')
        self.dtype = None if dtype is None else DTYPES[dtype]
        if dtype in (None, 'float32'):
            return
        for module in model.modules():
            if isinstance(module, _LAYERS):
                module.to(self.dtype)
        for module in _parts(model):
            module.register_forward_hook(lambda module, args, outputs: _to_float32(outputs))

    def __call__(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context that the network runs in."""
        if self.dtype is None:
            return nullcontext()
        if self.dtype == torch.float32:
            return torch.autocast(device.type, enabled=False)
        return torch.autocast(device.type, dtype=self.dtype)


def compile_parts(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Let ``torch.compile`` compile the backbone and the neck of a detector or classifier, in place.

    Heads, the assignment of targets and the losses run as they are: their shapes follow the number of objects, and
    what is tapped there is Python.

    Args:
        model: The network.
        options: Options of ``torch.compile``, such as ``dict(backend='eager', dynamic=True)``.
    """
    for name in COMPILED_PARTS:
        part = getattr(model, name, None)
        if part is not None:
            part.compile(**options)


def _parts(model: Any) -> list[nn.Module]:
    """What a head adapter or the teacher itself calls: neck, heads and their stages."""
    parts = [
        part
        for owner in (model, getattr(model, 'roi_head', None))
        for name, part in ([] if owner is None else owner.named_children())
        if name != 'backbone' or getattr(model, 'neck', None) is None
    ]
    stages = [stage for part in parts if isinstance(part, nn.ModuleList) for stage in part]
    return parts + stages


def _to_float32(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, tuple | list):
        return type(outputs)(_to_float32(output) for output in outputs)
    return outputs
