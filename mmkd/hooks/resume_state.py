"""A resumed run draws the random numbers, and sees the images, that it would have without the stop."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmkd.datasets.seeded_views import stateful_transforms
from mmkd.hooks._loader import Passes, sampler_of, set_batch_sampler
from mmkd.hooks._worker_states import (
    WorkerStates,
    keeps_workers,
    random_state,
    set_random_state,
)
from mmkd.registry import HOOKS
from mmkd.utils.student_config import unwrapped_model

CHECKPOINT_KEY = 'resume_states'  # 'resume_state' held the generators' states in another form


@HOOKS.register_module()
class ResumeStateHook(Hook):
    """Makes a resumed run end with the weights, bit for bit, of one that was never stopped.

    MMEngine resumes weights, optimizer, schedules and the message hub. This hook adds to each checkpoint what is
    missing, and puts it back when the run is resumed:

    - the states of Python's, NumPy's and PyTorch's generators of each process;
    - those of each dataloader worker, unless the training data are SeededViews, which need none;
    - the place in the epoch, if the checkpoint is not from the end of one: the batches before it are skipped without
      being loaded;
    - the validation that was due when the run stopped, which is made up for;
    - gradients that were being accumulated;
    - the seed of a run that set none.

    A run that is not resumed draws the same random numbers with this hook as without it.

    Not covered: processes on a GPU whose kernels are not deterministic; transforms that remember earlier images
    (``CachedMosaic``, ``CachedMixUp``) or own a generator (Albumentations); another number of processes, of images
    per batch or, without SeededViews, of workers than before. All but the first are warned of.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._workers = WorkerStates()
        self._training = False
        self._validated = False
        self._validation_began = False
        self._gathered: tuple[tuple[int, int, bool], list[dict[str, Any]]] | None = None
        self._saved: dict[str, Any] | None = None

    # ---- while training ----

    def before_train(self, runner: Runner) -> None:
        """Watch the data loader; take up a resumed run."""
        loader = runner.train_dataloader
        self._training = True
        if not isinstance(loader.batch_sampler, Passes):
            set_batch_sampler(loader, Passes(loader.batch_sampler, partial(self._begin, loader)))
        if _seeded(loader) is None:
            self._workers.watch(loader)
        saved, self._saved = self._saved, None
        if not runner.iter:  # begun anew, perhaps with another run's weights
            return
        if saved is None:
            _warn(
                'the checkpoint holds no random states, as it was saved without ResumeStateHook: the run '
                'goes on, but not with the random numbers it would have drawn without the stop'
            )
        elif self._fits(runner, saved):
            self._saved = saved
            self._prepare(runner, saved)

    def before_train_epoch(self, runner: Runner) -> None:
        """Put the generators back in a resumed run."""
        self._make_up(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take the worker's state out of the batch."""
        self._workers.take(data_batch)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note that this step is not validated yet; collect the states of all processes if one saves now."""
        self._validated = False
        if any(_saves_after_iteration(hook, runner) for hook in runner.hooks):
            self._gather(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Collect the states of all processes for a checkpoint of the epoch."""
        vars(runner.train_loop).pop('run_iter', None)
        self._gather(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Note that the workers of validation are started, if they live on."""
        self._validation_began = True

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note that this point of training is validated, for a checkpoint that is saved next."""
        self._validated = True
        self._gather(runner)

    def after_train(self, runner: Runner) -> None:
        """Make up for the last validation, if the run was stopped in it."""
        self._make_up(runner)

    # ---- checkpoints ----

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the states."""
        loader = runner.train_dataloader
        tag, ranks = self._gathered or (None, [])
        if tag != self._tag(runner):  # one process, or saved by something that is no CheckpointHook
            ranks = [self._rank_state(runner)]
        checkpoint[CHECKPOINT_KEY] = dict(
            ranks=ranks,
            validated=self._validated,
            sampler_seed=getattr(sampler_of(loader), 'seed', None),
            gradients=_accumulated_gradients(runner),
            layout=_layout(loader),
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the states until training starts."""
        self._saved = checkpoint.get(CHECKPOINT_KEY)

    # ---- how ----

    def _begin(self, loader: DataLoader) -> None:
        if not keeps_workers(loader):  # it has new ones for each pass
            self._workers.forget()

    def _tag(self, runner: Runner) -> tuple[int, int, bool]:
        return runner.epoch, runner.iter, self._validated

    def _gather(self, runner: Runner) -> None:
        # Here and not when the checkpoint is saved, which only process 0 does.
        if get_world_size() > 1 and self._training:
            self._gathered = (self._tag(runner), all_gather_object(self._rank_state(runner)))

    def _rank_state(self, runner: Runner) -> dict[str, Any]:
        val_loader: Any = runner.val_dataloader if runner.val_loop is not None else None
        return dict(
            main=random_state(),
            cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            validation_workers=keeps_workers(val_loader) and self._validation_began,
            **self._workers.to_save(runner.train_dataloader),
        )

    def _fits(self, runner: Runner, saved: dict[str, Any]) -> bool:
        """Whether the run is laid out as before; if not, say so."""
        before, now = saved['layout'], _layout(runner.train_dataloader)
        changed = [
            f'{name} was {before.get(name)}, is {now[name]}'
            for name in now
            if now[name] != before.get(name, now[name])
        ]
        if len(saved['ranks']) != now['processes'] and not changed:
            changed = [f'the checkpoint holds the states of {len(saved["ranks"])} process only']
        if changed:
            _warn(
                f'{"; ".join(changed)}: the run goes on, but not with the images and random numbers it would '
                'have had without the stop'
            )
        remembering = stateful_transforms(runner.train_dataloader.dataset)
        if remembering:
            _warn(
                f'{", ".join(remembering)} of the training pipeline have a memory or a generator of their own, '
                'which is not in the checkpoint: the run goes on, but not quite as it would have without the stop'
            )
        if saved['gradients'] and now['processes'] > 1:
            _warn(
                'gradients were being accumulated: those of process 0 are taken for all processes'
            )
        return not changed

    def _prepare(self, runner: Runner, saved: dict[str, Any]) -> None:
        """Put back what the dataloader needs before it starts its workers."""
        loop, loader = runner.train_loop, runner.train_dataloader
        state = saved['ranks'][get_rank()]
        sampler = sampler_of(loader)
        if hasattr(sampler, 'seed'):
            sampler.seed = saved['sampler_seed']
        self._workers.restore_seed(loader, state)
        self._validated = saved['validated']
        self._validation_began = state['validation_workers']

        by_epoch = not hasattr(loop, 'dataloader_iterator')
        position = runner.iter - runner.epoch * len(loader) if by_epoch else runner.iter
        if position or keeps_workers(loader):
            # The run that was never stopped has its iterator already: making one here draws no number.
            loader.generator = torch.Generator()
            self._workers.restore(loader, state)
            _go_on(loader, partial(iter, loader.batch_sampler.batch_sampler))
        if state['validation_workers'] and runner.val_loop is not None:
            runner.val_dataloader.generator = torch.Generator()
        if by_epoch and position:
            _enter_epoch(loop, position)
        elif position:
            loop.dataloader_iterator.skip_iter = partial(_enter_stream, loop)

    def _make_up(self, runner: Runner) -> None:
        """Put gradients and generators of the process back, then validate if that was due."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        _set_gradients(runner, saved['gradients'])
        state = saved['ranks'][get_rank()]
        set_random_state(state['main'])
        if state['cuda'] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state['cuda'].cpu())
        if not saved['validated'] and _validation_due(runner):
            runner.val_loop.run()


def _enter_epoch(loop: Any, position: int) -> None:
    """Let the next epoch of an EpochBasedTrainLoop begin after ``position`` batches."""
    loader, lead = loop.dataloader, _lead(loop.dataloader, position)
    whole = loader.batch_sampler.batch_sampler
    _go_on(loader, lambda: itertools.islice(iter(whole), position, None), lead)
    run_iter = loop.run_iter

    def run_later_iter(index: int, data_batch: Any) -> None:
        if index >= lead:
            run_iter(index - lead + position, data_batch)

    loop.run_iter = run_later_iter  # until the epoch's end


def _enter_stream(loop: Any, iterations: int) -> None:
    """Let the iterator of an IterBasedTrainLoop begin after ``iterations`` batches, in the pass they end in."""
    loader, iterator = loop.dataloader, loop.dataloader_iterator
    whole = loader.batch_sampler.batch_sampler
    stream, position = iter(whole), 0
    for _ in range(iterations):
        try:
            next(stream)
        except StopIteration:
            iterator._epoch += 1
            if hasattr(sampler_of(loader), 'set_epoch'):
                sampler_of(loader).set_epoch(iterator._epoch)
            stream, position = iter(whole), 0
            next(stream)
        position += 1
    lead = _lead(loader, position)
    _go_on(loader, lambda: stream, lead)
    for _ in range(lead):
        next(iterator)


def _lead(loader: DataLoader, position: int) -> int:
    """How many workers are behind the one whose turn it is after ``position`` batches, if it matters which."""
    return position % max(loader.num_workers, 1) if _seeded(loader) is None else 0


def _go_on(loader: DataLoader, rest: Callable[[], Iterator[list[int]]], lead: int = 0) -> None:
    """Let the next iterator over the data begin with ``lead`` empty batches and ``rest``, later ones as usual.

    With the empty ones, each worker gets the batches that it would have got.
    """

    def batches() -> Iterator[list[int]]:
        # The iterator has its seed and has started its workers by now; the next one's are its own.
        loader.generator = None
        WorkerStates.end_restoring(loader)
        return itertools.chain(itertools.repeat([], lead), rest())

    loader.batch_sampler.go_on(batches)  # type: ignore[union-attr]


def _seeded(loader: DataLoader) -> tuple[int | None, int] | None:
    """Number and seed of the views of the training data, None if these are not seeded."""
    views = getattr(loader.dataset, 'seeded_views', None)
    return None if views is None else (views.views, views.seed)


def _layout(loader: DataLoader) -> dict[str, Any]:
    """What has to be as before for the states to fit."""
    seeded = _seeded(loader)
    return dict(
        processes=get_world_size(),
        workers=loader.num_workers if seeded is None else None,
        persistent_workers=keeps_workers(loader),
        seeded_views=seeded,
        batches_per_epoch=len(loader),
        images=len(loader.dataset),  # type: ignore[arg-type]
    )


def _saves_after_iteration(hook: Hook, runner: Runner) -> bool:
    return (
        isinstance(hook, CheckpointHook)
        and not hook.by_epoch
        and (
            hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_iter(runner))
        )
    )


def _validation_due(runner: Runner) -> bool:
    """Whether the train loop validates where it stands, by the loop's own rule."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return False
    loop._decide_current_val_interval()
    by_epoch = not hasattr(loop, 'dataloader_iterator')
    if by_epoch and runner.iter != runner.epoch * len(loop.dataloader):
        return False  # in the middle of an epoch
    done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)


# ---- gradients ----


def _accumulated_gradients(runner: Runner) -> dict[str, torch.Tensor]:
    """Gradients of a step that is not finished, by parameter; empty between two steps."""
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, OptimWrapper) or wrapper.should_update():
        return {}
    return {
        name: parameter.grad.cpu()
        for name, parameter in unwrapped_model(runner).named_parameters()
        if parameter.grad is not None
    }


def _set_gradients(runner: Runner, gradients: dict[str, torch.Tensor]) -> None:
    if gradients:
        for name, parameter in unwrapped_model(runner).named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)


def _warn(message: str) -> None:
    print_log(f'resume: {message}', 'current', logging.WARNING)
