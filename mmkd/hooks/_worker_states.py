"""The random generators of a process and of its data loader workers: what a run without seeded views has to carry."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

RandomState = tuple[Any, Any, np.ndarray]
"""States of Python's, NumPy's and PyTorch's generators, in what a safely loaded checkpoint may hold."""

_BATCH_KEY = 'mmkd_worker_state'


def random_state() -> RandomState:
    """The generators' states in this process; without tensors, which a worker would send as open files."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()


def set_random_state(state: RandomState) -> None:
    """Put back what :func:`random_state` returned."""
    python, numpy, pytorch = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torch.from_numpy(pytorch))


class WorkerStates:
    """Each worker's state after the last of its batches that was trained on.

    A state travels with its batch, so that what a worker loaded ahead does not count.
    """

    def __init__(self) -> None:
        self._states: dict[int, RandomState] = {}

    def watch(self, loader: DataLoader) -> None:
        """Let the workers of ``loader`` report."""
        if not isinstance(loader.collate_fn, _CollateWithState):
            loader.collate_fn = _CollateWithState(loader.collate_fn)

    def take(self, batch: Any) -> None:
        """Take the state out of a batch that is trained on next."""
        if isinstance(batch, dict) and _BATCH_KEY in batch:
            worker, state = batch.pop(_BATCH_KEY)
            self._states[worker] = pickle.loads(state)

    def forget(self) -> None:
        """Of workers that are gone."""
        self._states.clear()

    def to_save(self, loader: DataLoader) -> dict[str, Any]:
        """What :meth:`restore` takes."""
        return dict(workers=dict(self._states), worker_seed=_start_options(loader).get('seed'))

    def restore(self, loader: DataLoader, saved: dict[str, Any]) -> None:
        """Let the workers that ``loader`` starts next begin with the states that they had."""
        self._states = dict(saved['workers'])
        loader.worker_init_fn = _StartWithState(loader.worker_init_fn, self._states)

    @staticmethod
    def restore_seed(loader: DataLoader, saved: dict[str, Any]) -> None:
        """Let all workers of ``loader`` be seeded as before, in a run without a seed, too."""
        if saved['worker_seed'] is not None and _start_options(loader):
            _start_options(loader)['seed'] = saved['worker_seed']

    @staticmethod
    def end_restoring(loader: DataLoader) -> None:
        """Let workers that are started later begin as usual."""
        if isinstance(loader.worker_init_fn, _StartWithState):
            loader.worker_init_fn = loader.worker_init_fn.start


def keeps_workers(loader: Any) -> bool:
    """Whether the workers of ``loader`` live on from one pass over the data to the next."""
    return bool(getattr(loader, 'persistent_workers', False) and loader.num_workers > 0)


def _start_options(loader: DataLoader) -> dict[str, Any]:
    start = loader.worker_init_fn
    return start.keywords if isinstance(start, partial) else {}


class _CollateWithState:
    """Adds to each batch the state in which its worker's generators are after it."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        worker = get_worker_info()
        if worker is None:
            return self.collate(samples)
        if not samples:  # in the place of a batch that is skipped
            return None
        batch = self.collate(samples)
        if isinstance(batch, dict):
            # In bytes, in which pinning memory looks for nothing.
            batch[_BATCH_KEY] = (worker.id, pickle.dumps(random_state()))
        return batch


class _StartWithState:
    """Starts a worker with the state that it had, if it had one."""

    def __init__(self, start: Callable[[int], None] | None, states: dict[int, RandomState]) -> None:
        self.start = start
        self.states = states

    def __call__(self, worker: int) -> None:
        if self.start is not None:
            self.start(worker)
        if worker in self.states:
            set_random_state(self.states[worker])
