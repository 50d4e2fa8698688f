from __future__ import annotations

import itertools
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from noise import Noise, end_workers
from torch import Tensor, nn

from mmkd.datasets.seeded_views import SeededViews
from mmkd.hooks import ResumeStateHook, SeededViewsHook, resume_state

_numbers = itertools.count()


class Dropped(BaseModel):
    """A linear model that draws random numbers in the process itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)

    def forward(self, x: list[Tensor], mode: str = 'tensor') -> Any:
        out = nn.functional.dropout(self.linear(torch.stack(list(x))), 0.5)
        return dict(loss=(out - 1).square().mean()) if mode == 'loss' else list(out)


class Mean(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [float(sample.mean()) for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(mean=float(np.mean(results)))


def run(
    work_dir: Path,
    *,
    loop: dict[str, Any],
    resume: Path | None = None,
    hook: bool = True,
    workers: int = 2,
    persistent: bool = False,
    infinite: bool = False,
    accumulate: int = 1,
    seed: int | None = 3,
    save_by_epoch: bool = False,
    save_best: str | None = None,
    seeded: bool = False,
) -> Runner:
    runner = Runner(
        model=Dropped(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=SeededViews(Noise(7)) if seeded else Noise(7),
            sampler=dict(type='InfiniteSampler' if infinite else 'DefaultSampler', shuffle=True),
            batch_size=2,
            num_workers=workers,
            persistent_workers=persistent,
        ),
        val_dataloader=dict(
            dataset=Noise(2),
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
            num_workers=int(persistent),  # others draw one number, with or without a worker
            persistent_workers=persistent,
        ),
        val_evaluator=[Mean()],
        val_cfg={},
        train_cfg=loop,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.01, momentum=0.9), accumulative_counts=accumulate
        ),
        param_scheduler=[
            dict(type='ReduceOnPlateauParamScheduler', param_name='lr', monitor='mean', patience=0)
        ],
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook',
                interval=1,
                by_epoch=save_by_epoch,
                save_best=save_best,
                rule='less',
            )
        ),
        custom_hooks=[ResumeStateHook()] * hook + [SeededViewsHook()] * seeded,
        randomness=dict(seed=seed),
        load_from=None if resume is None else str(resume),
        resume=resume is not None,
        experiment_name=f'resume_{next(_numbers)}',
        log_level='WARNING',
    )
    runner.train()
    end_workers(runner)
    return runner


def equal(first: Runner, second: Runner) -> bool:
    momenta = [
        [state['momentum_buffer'] for state in runner.optim_wrapper.optimizer.state.values()]
        for runner in (first, second)
    ]
    return all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(
            [*first.model.parameters(), *momenta[0]],
            [*second.model.parameters(), *momenta[1]],
            strict=True,
        )
    )


EPOCHS = dict(by_epoch=True, max_epochs=3, val_interval=2)
ONE_EPOCH = dict(by_epoch=True, max_epochs=1)
ITERATIONS = dict(by_epoch=False, max_iters=9, val_interval=3)
LAYOUTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    # A pass over the data has four batches: the place within one, the worker whose turn it is, and the gradients that
    # are being accumulated are those of the checkpoints that are resumed from.
    'epochs': (dict(loop=EPOCHS), ['iter_5', 'iter_8']),
    'accumulated gradients, no seed': (dict(loop=EPOCHS, accumulate=3, seed=None), ['iter_7']),
    'persistent workers': (dict(loop=EPOCHS, workers=3, persistent=True), ['iter_4', 'iter_6']),
    'no workers': (dict(loop=EPOCHS, workers=0), ['iter_6']),
    'iterations': (dict(loop=ITERATIONS, workers=3), ['iter_4', 'iter_6']),
    'infinite': (dict(loop=ITERATIONS, infinite=True, workers=3), ['iter_5']),
    'infinite, no workers': (dict(loop=ITERATIONS, infinite=True, workers=0), ['iter_5']),
    'saved per epoch, persistent': (
        dict(loop=EPOCHS, persistent=True, save_by_epoch=True, save_best='mean'),
        ['epoch_2'],
    ),
    'saved per epoch': (dict(loop=EPOCHS, save_by_epoch=True, save_best='mean'), ['epoch_2']),
}
"""Settings of a run, and the checkpoints that it is resumed from."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings about a resumed run."""
    warnings: list[str] = []
    monkeypatch.setattr(resume_state, '_warn', warnings.append)
    return warnings


@pytest.mark.parametrize('name', LAYOUTS)
def test_a_resumed_run_ends_as_the_one_that_was_not_stopped(
    name: str, tmp_path: Path, said: list[str]
) -> None:
    settings, checkpoints = LAYOUTS[name]
    whole = run(tmp_path / 'whole', **settings)
    for checkpoint in checkpoints:
        path = tmp_path / 'whole' / f'{checkpoint}.pth'
        assert equal(run(tmp_path / checkpoint, resume=path, **settings), whole), checkpoint
    assert said == []


@pytest.mark.parametrize(
    ('name', 'iteration', 'workers'), [('epochs', 7, 3), ('iterations', 6, 0), ('infinite', 5, 1)]
)
def test_with_seeded_views_no_worker_is_carried_and_their_number_may_change(
    name: str, iteration: int, workers: int, tmp_path: Path, said: list[str]
) -> None:
    settings = dict(LAYOUTS[name][0], seeded=True)
    whole = run(tmp_path / 'whole', **settings)
    path = tmp_path / 'whole' / f'iter_{iteration}.pth'
    (rank,) = torch.load(path, weights_only=False)[resume_state.CHECKPOINT_KEY]['ranks']
    assert rank['workers'] == {}
    assert equal(run(tmp_path / 'parts', resume=path, **dict(settings, workers=workers)), whole)
    assert said == []


def test_what_keeps_a_resumed_run_from_being_the_same_is_said(
    tmp_path: Path, said: list[str]
) -> None:
    settings: dict[str, Any] = dict(loop=ONE_EPOCH, save_by_epoch=True)
    run(tmp_path / 'without the hook', hook=False, workers=0, **settings)
    run(tmp_path / 'no workers', workers=0, **settings)
    run(tmp_path / 'a worker', workers=1, **settings)

    # All is trained already: nothing but the beginning of a resumed run is left.
    for of, now in (
        ('no workers', dict(workers=0)),
        ('without the hook', dict(workers=0)),
        ('no workers', dict(workers=1)),
        ('no workers', dict(workers=0, seeded=True)),
        ('a worker', dict(workers=1, persistent=True)),
    ):
        run(tmp_path / 'resumed', resume=tmp_path / of / 'epoch_1.pth', **now, **settings)

    expected = (
        'holds no random states',
        'workers was 0, is 1',
        'seeded_views was None, is (None, 0)',
        'persistent_workers was False, is True',
    )
    assert len(said) == len(expected)
    for warning, part in zip(said, expected, strict=True):
        assert part in warning


def test_without_the_hook_the_same_is_drawn_until_a_run_is_resumed(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(loop=dict(EPOCHS, max_epochs=2), save_by_epoch=True)
    whole = run(tmp_path / 'whole', hook=False, **settings)
    assert equal(run(tmp_path / 'with', **settings), whole)
    path = tmp_path / 'whole' / 'epoch_1.pth'
    assert not equal(run(tmp_path / 'parts', hook=False, resume=path, **settings), whole)


class Malicious:
    """Executes a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.trace}',)


def test_states_in_a_checkpoint_are_not_unpickled(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(loop=ONE_EPOCH, workers=1)
    whole = run(tmp_path / 'whole', **settings)
    checkpoint = torch.load(tmp_path / 'whole' / 'iter_1.pth', weights_only=False)
    (rank,) = checkpoint[resume_state.CHECKPOINT_KEY]['ranks']
    rank['workers'][7] = pickle.dumps(Malicious(tmp_path / 'executed'))
    torch.save(checkpoint, tmp_path / 'hostile.pth')

    resumed = run(tmp_path / 'parts', resume=tmp_path / 'hostile.pth', **settings)

    assert equal(resumed, whole)
    assert not (tmp_path / 'executed').exists()
