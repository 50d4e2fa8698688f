"""A resumed run draws the random numbers, and sees the images, that it would have without the stop."""

from __future__ import annotations

import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import DataLoader, get_worker_info

from mmkd.datasets.seeded_views import stateful_transforms
from mmkd.hooks._loader import sampler_of, set_batch_sampler
from mmkd.registry import HOOKS

CHECKPOINT_KEY = 'resume_state'
_BATCH_KEY = 'mmkd_worker_state'


@HOOKS.register_module()
class ResumeStateHook(Hook):
    """Makes a resumed run end with the weights, bit for bit, of one that was never stopped.

    MMEngine resumes weights, optimizer, schedules and the message hub. This hook adds to each checkpoint what is
    missing, and puts it back when the run is resumed:

    - the states of Python's, NumPy's and PyTorch's generators, of each process and each dataloader worker. A worker's
      state travels with its batches, so that what it loaded ahead does not count;
    - the place in the epoch, if the checkpoint is not from the end of one: the batches before it are skipped without
      being loaded;
    - the validation that was due when the run stopped, which is made up for;
    - gradients that were being accumulated;
    - the seed of a run that set none.

    A run that is not resumed draws the same random numbers with this hook as without it.

    Not covered: processes on a GPU whose kernels are not deterministic; transforms that remember earlier images
    (``CachedMosaic``, ``CachedMixUp``) or own a generator (Albumentations); another number of processes, workers or
    images per batch than before. All but the first are warned of.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._worker_states: dict[int, Any] = {}
        self._validated = False
        self._gathered: tuple[tuple[int, int, bool], list[dict[str, Any]]] | None = None
        self._saved: dict[str, Any] | None = None
        self._epoch_resumed = False
        self._pass = 0

    # ---- while training ----

    def before_train(self, runner: Runner) -> None:
        """Let the workers report their states; take up a resumed run."""
        loader = runner.train_dataloader
        if not isinstance(loader.collate_fn, _CollateWithState):
            loader.collate_fn = _CollateWithState(loader.collate_fn)
        if self._saved is not None and self._fits(runner, self._saved):
            self._prepare(runner, self._saved)
        else:
            self._saved = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Put the generators back in a resumed run; forget the states of workers that are gone."""
        self._make_up(runner)
        if self._epoch_resumed:
            self._epoch_resumed = False
        elif not _keeps_workers(runner.train_dataloader):
            self._worker_states.clear()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take the worker's state out of the batch."""
        _end_resuming(runner.train_dataloader)
        if self._pass != _pass_of(runner.train_loop) and not _keeps_workers(
            runner.train_dataloader
        ):
            self._worker_states.clear()
        self._pass = _pass_of(runner.train_loop)
        if isinstance(data_batch, dict) and _BATCH_KEY in data_batch:
            worker, state = data_batch.pop(_BATCH_KEY)
            self._worker_states[worker] = _Reported(state)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note that this step is not validated yet; collect the states of all processes if one saves now."""
        self._validated = False
        if any(_saves_after_iteration(hook, runner) for hook in runner.hooks):
            self._gather(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Collect the states of all processes for a checkpoint of the epoch."""
        _end_resuming(runner.train_dataloader)
        vars(runner.train_loop).pop('run_iter', None)
        self._gather(runner)

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
        """Keep the states of a run that is resumed until training starts."""
        if not runner._resume:
            return
        self._saved = checkpoint.get(CHECKPOINT_KEY)
        if self._saved is None:
            _warn(
                'the checkpoint holds no random states, as it was saved without ResumeStateHook: the run '
                'goes on, but not with the random numbers it would have drawn without the stop'
            )

    # ---- how ----

    def _tag(self, runner: Runner) -> tuple[int, int, bool]:
        return runner.epoch, runner.iter, self._validated

    def _gather(self, runner: Runner) -> None:
        # Here and not when the checkpoint is saved, which only process 0 does. `Runner.val` alone builds no train loop.
        if get_world_size() > 1 and isinstance(runner._train_loop, BaseLoop):
            self._gathered = (self._tag(runner), all_gather_object(self._rank_state(runner)))

    def _rank_state(self, runner: Runner) -> dict[str, Any]:
        val_loader: Any = runner.val_dataloader if runner.val_loop is not None else None
        return dict(
            main=_portable(_random_state()),
            cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            workers={
                worker: state.portable() if isinstance(state, _Reported) else state
                for worker, state in self._worker_states.items()
            },
            worker_seed=_worker_seed(runner.train_dataloader),
            validation_workers=_keeps_workers(val_loader) and val_loader._iterator is not None,
        )

    def _fits(self, runner: Runner, saved: dict[str, Any]) -> bool:
        """Whether the run is laid out as before; if not, say so."""
        before, now = saved['layout'], _layout(runner.train_dataloader)
        changed = [
            f'{name} was {before[name]}, is {now[name]}'
            for name in now
            if now[name] != before[name]
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
        if state['worker_seed'] is not None and isinstance(loader.worker_init_fn, partial):
            loader.worker_init_fn.keywords['seed'] = state['worker_seed']
        self._validated = saved['validated']

        by_epoch = not hasattr(loop, 'dataloader_iterator')
        position = runner.iter - runner.epoch * len(loader) if by_epoch else runner.iter
        if position or _keeps_workers(loader):
            # The run that was never stopped has its iterator already: making one here draws no number.
            loader.generator = torch.Generator()
            self._worker_states = dict(state['workers'])
            loader.worker_init_fn = _StartWithState(loader.worker_init_fn, self._worker_states)
            self._epoch_resumed = True
        if state['validation_workers'] and runner.val_loop is not None:
            runner.val_dataloader.generator = torch.Generator()
        if by_epoch and position:
            _enter_epoch(loop, position)
        elif position:
            loop.dataloader_iterator.skip_iter = partial(self._enter_stream, loop)

    def _make_up(self, runner: Runner) -> None:
        """Put gradients and generators of the process back, then validate if that was due."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        _set_gradients(runner, saved['gradients'])
        state = saved['ranks'][get_rank()]
        _set_random_state(state['main'])
        if state['cuda'] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state['cuda'].cpu())
        if not saved['validated'] and _validation_due(runner):
            runner.val_loop.run()

    def _enter_stream(self, loop: Any, iterations: int) -> None:
        _enter_stream(loop, iterations)
        self._pass = _pass_of(loop)


@dataclass(frozen=True)
class _Reported:
    """A worker's state as it came with a batch. A checkpoint holds none of these: nothing of one is unpickled."""

    pickled: bytes

    def portable(self) -> dict[str, Any]:
        return _portable(pickle.loads(self.pickled))


class _CollateWithState:
    """Adds to each batch the state in which its worker's generators are after it.

    Args:
        collate: The dataloader's own function.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        worker = get_worker_info()
        if worker is None:
            return self.collate(samples)
        if not samples:  # in the place of a batch that is skipped
            return {_BATCH_KEY: None}
        batch = self.collate(samples)
        if isinstance(batch, dict):
            batch[_BATCH_KEY] = (worker.id, pickle.dumps(_random_state()))
        return batch


class _StartWithState:
    """Starts a worker with the state it had when the checkpoint was saved, if it had one.

    Args:
        start: The dataloader's own ``worker_init_fn``.
        states: States by the worker's number.
    """

    def __init__(self, start: Callable[[int], None] | None, states: dict[int, Any]) -> None:
        self.start = start
        self.states = states

    def __call__(self, worker: int) -> None:
        if self.start is not None:
            self.start(worker)
        if worker in self.states:
            _set_random_state(self.states[worker])


class _Continued:
    """A batch sampler that, iterated for the first time, goes on in the middle.

    Args:
        batch_sampler: The dataloader's own.
        rest: Makes the iterator over the remaining batches.
        lead: Number of empty batches before them, with which each worker gets the batches it would have got.
    """

    def __init__(
        self, batch_sampler: Any, rest: Callable[[], Iterator[list[int]]], lead: int
    ) -> None:
        self.batch_sampler = batch_sampler
        self._rest: Callable[[], Iterator[list[int]]] | None = rest
        self._lead = lead

    def __iter__(self) -> Iterator[list[int]]:
        # Run at the first batch: a dataloader makes two iterators when it starts workers and uses the second.
        rest, self._rest = self._rest, None
        if rest is None:
            yield from self.batch_sampler
        else:
            yield from itertools.repeat([], self._lead)
            yield from rest()

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batch_sampler, name)


def _enter_epoch(loop: Any, position: int) -> None:
    """Let the next epoch of an EpochBasedTrainLoop begin after ``position`` batches."""
    loader = loop.dataloader
    batch_sampler, lead = loader.batch_sampler, position % max(loader.num_workers, 1)
    set_batch_sampler(
        loader,
        _Continued(
            batch_sampler, lambda: itertools.islice(iter(batch_sampler), position, None), lead
        ),
    )
    run_iter = loop.run_iter

    def run_later_iter(index: int, data_batch: Any) -> None:
        if index >= lead:
            run_iter(index - lead + position, data_batch)

    loop.run_iter = run_later_iter  # until the epoch's end


def _enter_stream(loop: Any, iterations: int) -> None:
    """Let the iterator of an IterBasedTrainLoop begin after ``iterations`` batches, in the pass they end in."""
    loader, iterator = loop.dataloader, loop.dataloader_iterator
    batch_sampler = loader.batch_sampler
    stream, position = iter(batch_sampler), 0
    for _ in range(iterations):
        try:
            next(stream)
        except StopIteration:
            iterator._epoch += 1
            if hasattr(sampler_of(loader), 'set_epoch'):
                sampler_of(loader).set_epoch(iterator._epoch)
            stream, position = iter(batch_sampler), 0
            next(stream)
        position += 1
    lead = position % max(loader.num_workers, 1)
    set_batch_sampler(loader, _Continued(batch_sampler, lambda: stream, lead))
    iterator._iterator = iter(loader)
    _end_resuming(loader)
    for _ in range(lead):
        next(iterator._iterator)


def _pass_of(loop: Any) -> int:
    """How often an IterBasedTrainLoop has begun its data again, each time with new workers."""
    return loop.dataloader_iterator._epoch if hasattr(loop, 'dataloader_iterator') else 0


def _end_resuming(loader: DataLoader) -> None:
    """Let the next iterator over the data start as usual."""
    loader.generator = None
    if isinstance(loader.worker_init_fn, _StartWithState):
        loader.worker_init_fn = loader.worker_init_fn.start


def _keeps_workers(loader: Any) -> bool:
    return bool(getattr(loader, 'persistent_workers', False) and loader.num_workers > 0)


def _worker_seed(loader: DataLoader) -> int | None:
    start = loader.worker_init_fn
    return start.keywords.get('seed') if isinstance(start, partial) else None


def _layout(loader: DataLoader) -> dict[str, int]:
    """What has to be as before for the states to fit."""
    return dict(
        processes=get_world_size(),
        workers=loader.num_workers,
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


# ---- generators ----


def _random_state() -> tuple[Any, Any, np.ndarray]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()


def _portable(state: tuple[Any, Any, np.ndarray]) -> dict[str, Any]:
    """As tensors and plain values, which ``torch.load(weights_only=True)`` reads."""
    (version, words, gauss), (name, keys, *rest), torch_state = state
    return dict(
        python=[version, torch.tensor(words), gauss],
        numpy=[name, torch.from_numpy(keys.astype(np.int64)), *rest],
        torch=torch.from_numpy(torch_state.copy()),
    )


def _set_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())


# ---- gradients ----


def _accumulated_gradients(runner: Runner) -> dict[str, torch.Tensor]:
    """Gradients of a step that is not finished, by parameter; empty between two steps."""
    wrapper = runner.optim_wrapper
    if (
        not isinstance(wrapper, OptimWrapper)
        or wrapper._inner_count % wrapper._accumulative_counts == 0
    ):
        return {}
    return {
        name: parameter.grad.cpu()
        for name, parameter in _model(runner).named_parameters()
        if parameter.grad is not None
    }


def _set_gradients(runner: Runner, gradients: dict[str, torch.Tensor]) -> None:
    if gradients:
        for name, parameter in _model(runner).named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)


def _model(runner: Runner) -> torch.nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _warn(message: str) -> None:
    print_log(f'resume: {message}', 'current', logging.WARNING)
