"""Tells a data set of seeded views the epoch."""

from __future__ import annotations

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmkd.datasets.seeded_views import SeededViews, ViewedBatches
from mmkd.hooks._loader import sampler_of, set_batch_sampler
from mmkd.registry import HOOKS


@HOOKS.register_module()
class SeededViewsHook(Hook):
    """Makes the training loader ask :class:`~mmkd.datasets.seeded_views.SeededViews` for samples of the current epoch.

    With an ``EpochBasedTrainLoop`` that is the loop's epoch. With an ``IterBasedTrainLoop`` it is the number of
    complete passes over the data: the n-th sample that ``InfiniteSampler`` draws, counted from 0 over all processes, is
    of epoch n // number of samples. Both depend only on the position in the run, so a resumed run continues with the
    same samples.

    Raises:
        ValueError: ``train_dataloader.dataset`` is no SeededViews.
    """

    priority = 'HIGHEST'  # before the hooks that skip batches of a resumed run

    def before_train(self, runner: Runner) -> None:
        """Add the epoch to the indices of the training loader."""
        loader, loop = runner.train_dataloader, runner.train_loop
        if not isinstance(getattr(loader.dataset, 'seeded_views', None), SeededViews):
            raise ValueError(
                'SeededViewsHook: train_dataloader.dataset is '
                f'{type(loader.dataset).__name__}: let SeededViews be the outermost data set, '
                "dataset=dict(type='mmkd.SeededViews', dataset=...), or take the hook out"
            )
        if loader.batch_sampler is None:
            raise ValueError('SeededViewsHook: train_dataloader.batch_size is None: set it')
        if isinstance(loader.batch_sampler, ViewedBatches):
            return
        if type(sampler_of(loader)).__name__ == 'RepeatAugSampler':
            print_log(
                'SeededViewsHook: RepeatAugSampler gives each image several times an epoch, which are now equal: '
                'use DefaultSampler',
                'current',
                logging.WARNING,
            )
        iterator = getattr(loop, 'dataloader_iterator', None)
        batches = ViewedBatches(
            loader.batch_sampler,
            len(loader.dataset),
            epoch=(lambda: runner.epoch) if iterator is None else None,
        )
        set_batch_sampler(loader, batches)
        if iterator is None:
            return
        done = runner.iter * getattr(loader.batch_sampler, 'batch_size', 1)
        if getattr(loop, 'fast_forward_on_resume', False):
            batches.skip(done)
            return
        skip = iterator.skip_iter

        def skip_and_count(iterations: int) -> None:
            skip(iterations)
            batches.skip(done)

        iterator.skip_iter = skip_and_count
