"""The samplers of a data loader that is made already."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader


def sampler_of(loader: DataLoader) -> Any:
    """The sampler that ``loader`` draws indices from."""
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)


def set_batch_sampler(loader: DataLoader, batch_sampler: Any) -> None:
    """Let the next iterator over ``loader`` take its batches of indices from ``batch_sampler``."""
    # A DataLoader refuses this once it is made; its iterator, which reads it, isn't.
    object.__setattr__(loader, 'batch_sampler', batch_sampler)
