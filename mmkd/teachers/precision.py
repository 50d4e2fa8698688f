"""The teacher's dtype, and compiled parts of student and teacher."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.functional.compat import autocast_dtype

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
COMPILED_PARTS = ('backbone', 'neck')
"""Parts of a network that are compiled: they compute most, and their inputs are plain tensors."""


class TeacherPrecision:
    """The dtype that a frozen network computes in, independent of the student's.

    With float16 and bfloat16, convolutions and linear layers store and multiply numbers of that dtype. Autocast decides
    about the rest; normalisation keeps its float32 parameters. Feature maps and outputs of heads are converted back to
    float32, also under the student's autocast, for two reasons: RoI extractors read boxes in the dtype of the maps, and
    bfloat16 represents pixels beyond 256 only in steps of 2 or more; and the student's autocast rejects the other
    half-precision dtype.

    Modules that do not support the dtype stay in float32: MMCV's own operators, such as deformable convolutions, lack
    bfloat16, and YOLOF's head outputs numbers too large for float16.

    Args:
        model: The network; its weights are converted in place.
        dtype: ``'float32'``, ``'float16'``, ``'bfloat16'``; None for that of the student's step, autocast or not.

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
    """Compile the backbone and the neck of a detector or classifier with ``torch.compile``, in place.

    Heads, the assignment of targets and the losses are not compiled: their shapes depend on the number of objects, and
    the taps on them are Python.

    Args:
        model: The network.
        options: Options of ``torch.compile``, such as ``dict(backend='eager', dynamic=True)``.
    """
    for name in COMPILED_PARTS:
        part = getattr(model, name, None)
        if part is not None:
            part.compile(**options)


def _parts(model: Any) -> list[nn.Module]:
    """The modules that head adapters or the teacher call: neck, heads and their stages."""
    parts = [
        part
        for owner in (model, getattr(model, 'roi_head', None))
        for name, part in ([] if owner is None else owner.named_children())
        if name != 'backbone' or getattr(model, 'neck', None) is None
    ]
    stages = [stage for part in parts if isinstance(part, nn.ModuleList) for stage in part]
    return parts + stages


def _refused_type(module: nn.Module) -> torch.dtype | None:
    """The dtype that a module does not support, if any."""
    for base in type(module).__mro__:
        if base.__module__.startswith('mmcv.ops.'):
            return torch.bfloat16
        if base.__name__ == 'YOLOFHead':
            return torch.float16
    return None


def _avoiding(module: nn.Module, refused: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    """The module's forward, in float32 if autocast would use the dtype that it does not support."""
    forward = partial(type(module).forward, module)
    device = _autocast_device(args)
    if device is None or autocast_dtype(device) != refused:
        return forward(*args, **kwargs)
    with torch.autocast(device, enabled=False):
        return forward(
            *_to_float32(args), **{name: _to_float32(value) for name, value in kwargs.items()}
        )


def _under_autocast_float32(module: nn.Module, args: Any, outputs: Any) -> Any:
    return outputs if _autocast_device(outputs) is None else _to_float32(outputs)


def _autocast_device(values: Any) -> str | None:
    """Device type of the first tensor, if autocast is enabled there."""
    if isinstance(values, tuple | list):
        return next((_autocast_device(value) for value in values), None)
    if not isinstance(values, Tensor) or autocast_dtype(values.device.type) is None:
        return None
    return values.device.type


def _to_float32(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.float() if values.is_floating_point() else values
    if isinstance(values, tuple | list):
        return type(values)(_to_float32(value) for value in values)
    return values
