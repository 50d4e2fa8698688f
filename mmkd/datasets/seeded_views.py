"""Training samples whose augmentation depends on their index and the epoch only."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from mmkd.registry import DATASETS

_PARTS = ('dataset', 'datasets', 'pipeline', 'transforms', 'branch_pipelines', 'loader')


@DATASETS.register_module()
class SeededViews(Dataset):
    """A data set whose sample ``i`` in epoch ``e`` is always made with the same random numbers.

    ``dataset[i, e]`` calls the wrapped ``dataset[i]`` with Python's, NumPy's and PyTorch's generators seeded by
    (``seed``, i, e mod ``views``), or by (``seed``, i, e) without ``views``, and restores the generators afterwards. So
    the sample is the same in any order, worker, process and run, for all random transforms, including those that draw
    other images, and for replacements of unreadable images.

    The metainfo of the data samples gets three more entries, which the pipeline need not pack: ``sample_index`` (i),
    ``num_samples`` (the length of the data set) and ``view`` (e mod ``views``, or e).

    It has to be the outermost wrapper of the training data. ``SeededViewsHook`` tells it the epoch; `tools/train.py`
    adds that hook.

    Args:
        dataset: The training data set, or its config.
        views: Number of different augmentations of each sample, which the epochs use in turn. None: a new one in each
            epoch.
        seed: Seed of the augmentations. Independent of the run's seed: runs with different seeds see the same views.

    Raises:
        TypeError: ``dataset`` is no data set.
        ValueError: ``views`` or ``seed`` is out of range, the data set is for testing or already has seeded views, or
            a transform keeps state from sample to sample; the message names it.
    """

    def __init__(self, dataset: Any, views: int | None = None, seed: int = 0) -> None:
        if views is not None and not _is_whole(views, 1):
            raise ValueError(
                f'SeededViews.views: expected None or an integer from 1 on, got {views!r}'
            )
        if not _is_whole(seed, 0):
            raise ValueError(f'SeededViews.seed: expected an integer from 0 on, got {seed!r}')
        if isinstance(dataset, Mapping):
            dataset = MMENGINE_DATASETS.build(dataset)
        if not (hasattr(dataset, '__getitem__') and hasattr(dataset, '__len__')):
            raise TypeError(
                f'SeededViews.dataset: expected a data set with indices or its config, got {dataset!r}'
            )
        parts = list(_parts(dataset))
        if any(isinstance(part, SeededViews) for part in parts):
            raise ValueError(
                'SeededViews.dataset: it has SeededViews already: leave only the outermost one'
            )
        if any(getattr(part, 'test_mode', False) is True for part in parts):
            raise ValueError(
                'SeededViews.dataset: it is for testing (test_mode=True), where nothing is drawn: '
                'wrap train_dataloader.dataset alone'
            )
        self.dataset = dataset
        self.views = views
        self.seed = seed
        self._refuse_states(dataset)

    @property
    def seeded_views(self) -> SeededViews:
        """This object itself, also when asked through a wrapper that forwards attributes."""
        return self

    @property
    def pipeline(self) -> Any:
        """The pipeline of the wrapped data set, which hooks such as PipelineSwitchHook replace."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        self._refuse_states(pipeline)
        self.dataset.pipeline = pipeline

    def view_in(self, epoch: int) -> int:
        """Number of the view that ``epoch`` shows."""
        return epoch % self.views if self.views else epoch

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """The sample of ``(index, epoch)``."""
        if not isinstance(key, tuple):
            raise TypeError(
                f'SeededViews needs an index and an epoch, dataset[index, epoch], got {key!r}. In training '
                "SeededViewsHook brings the epoch: add custom_hooks=[dict(type='mmkd.SeededViewsHook')], which "
                'tools/train.py does, let SeededViews be the outermost data set, and use it for '
                'train_dataloader alone'
            )
        index, view = int(key[0]), self.view_in(int(key[1]))
        if not 0 <= index < len(self):
            raise IndexError(f'SeededViews: index {index} of {len(self)} samples')
        with _seeded(self.seed, index, view):
            sample = self.dataset[index]
        _set_metainfo(sample, dict(sample_index=index, num_samples=len(self), view=view))
        return sample

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Not the methods that copying, pickling and loaders (`__getitems__`) look for.
        if name.startswith('__') or name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @staticmethod
    def _refuse_states(node: Any) -> None:
        names = stateful_transforms(node)
        if names:
            raise ValueError(
                'SeededViews: '
                + '; '.join(f'{name} {_INSTEAD.get(name, _OWN_GENERATOR)}' for name in names)
            )


_OWN_GENERATOR = (
    'draws from a generator of its own: use the transforms of mmcv, MMDetection, MMPretrain or torchvision '
    'in its place'
)
_INSTEAD = {
    name: f'mixes in images that its worker happened to load before: use {plain}, with '
    'MultiImageMixDataset around the data set and SeededViews around that'
    for name, plain in (('CachedMosaic', 'Mosaic'), ('CachedMixUp', 'MixUp'))
}


def stateful_transforms(node: Any) -> list[str]:
    """Names of the transforms in a data set or pipeline that cache samples or have their own generator."""
    return [
        type(part).__name__
        for part in _parts(node)
        if hasattr(part, 'results_cache') or type(part).__name__ in ('Albu', 'Albumentations')
    ]


def _parts(node: Any) -> Iterator[Any]:
    """``node`` and all data sets and transforms within it."""
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            yield from _parts(item)
    elif hasattr(node, '__dict__'):
        yield node
        for name in _PARTS:
            yield from _parts(vars(node).get(name))


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@contextlib.contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed this process's generators with ``key`` within the block, and restore them afterwards."""
    python, numpy, torch_ = np.random.SeedSequence(key).generate_state(3, np.uint64).tolist()
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(python)
            np.random.seed([numpy >> 32, numpy & 0xFFFFFFFF])
            # `torch.manual_seed` would also seed the GPUs, whose state is not restored.
            torch.default_generator.manual_seed(torch_)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _set_metainfo(sample: Any, entries: dict[str, int]) -> None:
    if isinstance(sample, BaseDataElement):
        sample.set_metainfo(entries)
    elif isinstance(sample, Mapping):
        _set_metainfo(list(sample.values()), entries)
    elif isinstance(sample, list | tuple):
        for item in sample:
            _set_metainfo(item, entries)


class ViewedBatches:
    """A batch sampler's batches of indices, each index with its epoch.

    The epoch travels with the index, so that it is right in workers that live on and that load ahead.

    Args:
        batch_sampler: The data loader's own.
        size: Number of samples in the data set.
        epoch: Gives the epoch when a pass begins. None, as for iterations without epochs: the number of whole passes
            over the data that all processes together have begun before, also where a sampler never ends.
    """

    def __init__(
        self, batch_sampler: Any, size: int, epoch: Callable[[], int] | None = None
    ) -> None:
        self.batch_sampler = batch_sampler
        self.size = size
        self._epoch = epoch
        self._passes = 0
        self._skipped = 0

    def skip(self, samples: int) -> None:
        """Begin after so many samples of this process, unless the sampler was iterated up to there already."""
        if not self._passes:
            self._skipped = samples

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Run at the first batch: a DataLoader makes two iterators when it starts workers and uses the second.
        begun, self._passes = self._passes, self._passes + 1
        if self._epoch is not None:
            epoch = self._epoch()
            for batch in self.batch_sampler:
                yield [(index, epoch) for index in batch]
            return
        position = self._skipped * get_world_size() + get_rank()
        for batch in self.batch_sampler:
            yield [
                (index, begun + (position + get_world_size() * number) // self.size)
                for number, index in enumerate(batch)
            ]
            position += get_world_size() * len(batch)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batch_sampler, name)
