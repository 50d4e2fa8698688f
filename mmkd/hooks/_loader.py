"""The batches of a data loader that is made already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader


def sampler_of(loader: DataLoader) -> Any:
    """The sampler that ``loader`` draws indices from."""
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)


def set_batch_sampler(loader: DataLoader, batch_sampler: Any) -> None:
    """Let the next iterator over ``loader`` take its batches of indices from ``batch_sampler``."""
    # A DataLoader refuses this once it is made; its iterator, which reads it, isn't.
    object.__setattr__(loader, 'batch_sampler', batch_sampler)


class Passes:
    """A batch sampler that tells when a pass over it begins, and whose next pass can begin in the middle.

    Args:
        batch_sampler: The data loader's own.
        begin: Called at the beginning of a pass, but not in the middle of one.
    """

    def __init__(self, batch_sampler: Any, begin: Callable[[], None]) -> None:
        self.batch_sampler = batch_sampler
        self._begin = begin
        self._rest: Callable[[], Iterator[list[int]]] | None = None

    def go_on(self, rest: Callable[[], Iterator[list[int]]]) -> None:
        """Let the next pass consist of what ``rest`` gives, asked for when a data loader begins it."""
        self._rest = rest

    def __iter__(self) -> Iterator[list[int]]:
        # Run at the first batch: a DataLoader makes two iterators when it starts workers and uses the second.
        rest, self._rest = self._rest, None
        if rest is None:
            self._begin()
        yield from self.batch_sampler if rest is None else rest()

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batch_sampler, name)
