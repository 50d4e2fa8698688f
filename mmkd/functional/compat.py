"""Parts of PyTorch's interface that differ between 2.1, the oldest version that works, and the current one."""

from __future__ import annotations

from collections.abc import Callable

import torch


def _never() -> bool:
    return False


is_compiling: Callable[[], bool] = getattr(torch.compiler, 'is_compiling', _never)
"""Whether ``torch.compile`` is tracing; before PyTorch 2.3 this is not known."""


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype of autocast on a type of device; None if autocast is off there.

    Args:
        device: Such as ``'cpu'`` or ``'cuda'``.
    """
    if hasattr(torch, 'get_autocast_dtype'):  # PyTorch 2.4
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
