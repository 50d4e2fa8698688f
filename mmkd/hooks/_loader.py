"""Changes the batches of an existing data loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader


def sampler_of(loader: DataLoader) -> Any:
    """The sampler that ``loader`` draws indices from."""
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)


def set_batch_sampler(loader: DataLoader, batch_sampler: Any) -> None:
    """Make the next iterator over ``loader`` take its batches of indices from ``batch_sampler``."""
    # A DataLoader rejects a change of this attribute after its creation, but its iterators read it.
    object.__setattr__(loader, 'batch_sampler', batch_sampler)


class Passes:
    """A batch sampler that reports the start of a pass, and whose next pass can start in the middle.

    Args:
        batch_sampler: The data loader's own.
        begin: Called at the start of a pass, but not of one that starts in the middle.
    """

    def __init__(self, batch_sampler: Any, begin: Callable[[], None]) -> None:
        self.batch_sampler = batch_sampler
        self._begin = begin
        self._rest: Callable[[], Iterator[list[int]]] | None = None

    def go_on(self, rest: Callable[[], Iterator[list[int]]]) -> None:
        """Make the next pass consist of the batches of ``rest``, which is called when the pass starts."""
        self._rest = rest

    def __iter__(self) -> Iterator[list[int]]:
        # Runs at the first batch: a DataLoader creates two iterators when it starts workers, and uses the second.
        rest, self._rest = self._rest, None
        if rest is None:
            self._begin()
        yield from self.batch_sampler if rest is None else rest()

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batch_sampler, name)
