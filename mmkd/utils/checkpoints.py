"""Reading checkpoints without running code that is in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer


def read_checkpoint(path: str | Path, trust: bool = False) -> dict[str, Any]:
    """A checkpoint of MMEngine, or a plain state dict, on the CPU.

    Nothing in the file is executed: tensors, plain values and what MMEngine's log history is made of are all that it
    may hold.

    Args:
        path: A file.
        trust: Unpickle the file whatever it holds, which runs code that is in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no checkpoint, or holds other objects and is not trusted.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no file {str(path)!r}')
    try:
        with torch.serialization.safe_globals(_globals_of_mmengine()):
            content = torch.load(path, map_location='cpu', weights_only=not trust)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        for line in str(error).splitlines():
            reason = line if 'WeightsUnpickler error' in line else reason
        raise ValueError(
            f'{path} holds more than weights and plain values ({reason.strip()}): loading it would run code '
            'that is in the file. Only if you know where it comes from, say that you trust it'
        ) from None
    except (EOFError, RuntimeError) as error:
        raise ValueError(f'{path} is damaged or no checkpoint: {error}') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, not a checkpoint')
    return content


def _globals_of_mmengine() -> list[Any]:
    """What MMEngine's checkpoints refer to, above all the logs of its message hub."""
    dtypes = {type(np.dtype(kind)) for kind in ('?', 'i4', 'i8', 'f4', 'f8', 'O')}
    # Both are private, and move between versions of NumPy: this is how NumPy itself names them.
    array, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    return [
        ConfigDict,  # of a data set's metainfo
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        *dtypes,
        *((array, f'numpy.{core}.multiarray._reconstruct') for core in ('_core', 'core')),
        *((scalar, f'numpy.{core}.multiarray.scalar') for core in ('_core', 'core')),
        (_method_of_history, 'builtins.getattr'),
    ]


def _method_of_history(owner: Any, name: str) -> Any:
    """``getattr``, for the one thing that MMEngine's logs need it for."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(owner, name)
