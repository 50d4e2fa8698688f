"""The states of Python's, NumPy's and PyTorch's random generators on the CPU."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> tuple[Any, Any, np.ndarray]:
    """The states in this process, without tensors, which a worker would send as open files."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()


def portable(state: tuple[Any, Any, np.ndarray]) -> dict[str, Any]:
    """``state`` as tensors and plain values, which ``torch.load(weights_only=True)`` reads."""
    (version, words, gauss), (name, keys, *rest), torch_state = state
    return dict(
        python=[version, torch.tensor(words), gauss],
        numpy=[name, torch.from_numpy(keys.astype(np.int64)), *rest],
        torch=torch.from_numpy(torch_state.copy()),
    )


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`portable` returned."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
