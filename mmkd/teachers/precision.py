"""The arithmetic of student and teacher: the teacher's own number type, compiled parts, channels-last memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
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
    and normalisation keeps its float32 parameters. Feature maps and the outputs of the heads are float32 again, under
    the student's autocast too: RoI extractors read boxes in the type of the maps, and bfloat16 knows pixels beyond 256
    in steps of 2 and more only; and a student's autocast refuses the other half-precision type.

    Modules that cannot compute in the type stay in float32 throughout: MMCV's own operators, such as deformable
    convolutions, know no bfloat16, and YOLOF's head writes numbers that float16 does not hold.

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
        if dtype == 'float32':
            return
        left: set[nn.Module] = set()
        for module in model.modules():
            refused = _refused_type(module)
            if refused is not None and module not in left:
                module.forward = partial(_avoiding, module, refused)
                left.update(module.modules() if refused == self.dtype else ())
        for module in model.modules():
            if self.dtype is not None and isinstance(module, _LAYERS) and module not in left:
                module.to(self.dtype)
        for module in _parts(model):
            module.register_forward_hook(_under_autocast_float32)

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


def _refused_type(module: nn.Module) -> torch.dtype | None:
    """The number type that a module cannot compute in."""
    for base in type(module).__mro__:
        if base.__module__.startswith('mmcv.ops.'):
            return torch.bfloat16
        if base.__name__ == 'YOLOFHead':
            return torch.float16
    return None


def _avoiding(module: nn.Module, refused: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    """The module's own forward; in float32 where autocast would have it compute in the type that it refuses."""
    forward = partial(type(module).forward, module)
    device = _autocast_device(args)
    if device is None or torch.get_autocast_dtype(device) != refused:
        return forward(*args, **kwargs)
    with torch.autocast(device, enabled=False):
        return forward(
            *_to_float32(args), **{name: _to_float32(value) for name, value in kwargs.items()}
        )


def _under_autocast_float32(module: nn.Module, args: Any, outputs: Any) -> Any:
    return outputs if _autocast_device(outputs) is None else _to_float32(outputs)


def _autocast_device(values: Any) -> str | None:
    """Type of the device of the first tensor, if autocast is on there."""
    if isinstance(values, tuple | list):
        return next((_autocast_device(value) for value in values), None)
    if not isinstance(values, Tensor) or not torch.is_autocast_enabled(values.device.type):
        return None
    return values.device.type


def _to_float32(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.float() if values.is_floating_point() else values
    if isinstance(values, tuple | list):
        return type(values)(_to_float32(value) for value in values)
    return values
