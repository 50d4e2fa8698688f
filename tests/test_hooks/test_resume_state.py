from __future__ import annotations

import itertools
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmkd.datasets.seeded_views import SeededViews
from mmkd.hooks import ResumeStateHook, SeededViewsHook, resume_state

_numbers = itertools.count()


class Noise(Dataset):
    """Numbers that depend on all three generators of the process that loads them."""

    def __init__(self, size: int = 7) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return dict(x=torch.full((3,), index + noise))


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
            dataset=SeededViews(Noise()) if seeded else Noise(),
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
ITERATIONS = dict(by_epoch=False, max_iters=11, val_interval=3)
LAYOUTS = {
    'epochs': dict(loop=EPOCHS),
    'epochs, persistent workers': dict(loop=EPOCHS, workers=3, persistent=True),
    'epochs, no workers': dict(loop=EPOCHS, workers=0),
    'accumulated gradients': dict(loop=EPOCHS, accumulate=3),
    'no seed': dict(loop=EPOCHS, seed=None),
    'iterations': dict(loop=ITERATIONS, workers=3),
    'iterations, infinite': dict(loop=ITERATIONS, infinite=True, workers=3),
    'iterations, infinite, no workers': dict(loop=ITERATIONS, infinite=True, workers=0),
    'saved per epoch, persistent': dict(loop=EPOCHS, persistent=True, save_by_epoch=True),
    'saved per epoch, with the best': dict(loop=EPOCHS, save_by_epoch=True, save_best='mean'),
}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)  # starts compilers


@pytest.mark.parametrize('name', LAYOUTS)
def test_a_run_resumed_from_any_of_its_checkpoints_ends_as_it_did(
    name: str, tmp_path: Path
) -> None:
    settings = LAYOUTS[name]
    whole = run(tmp_path / 'whole', **settings)
    checkpoints = sorted(
        (path for path in (tmp_path / 'whole').glob('*.pth') if not path.name.startswith('best')),
        key=lambda path: int(path.stem.split('_')[1]),
    )
    count = len(checkpoints)
    # Early, where a pass over the data ends, in a later pass, and a few steps before the end.
    ends_a_pass = checkpoints[min(3, count - 1)]
    for path in sorted({checkpoints[0], ends_a_pass, checkpoints[count // 2], checkpoints[-2]}):
        assert equal(run(tmp_path / path.stem, resume=path, **settings), whole), path.name


@pytest.mark.parametrize('name', ['epochs', 'iterations', 'iterations, infinite'])
def test_with_seeded_views_no_worker_is_carried_and_their_number_may_change(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(resume_state, '_warn', warnings.append)
    settings = dict(LAYOUTS[name], seeded=True)
    whole = run(tmp_path / 'whole', **settings)
    for iteration, workers in ((4, 1), (6, 0), (7, 3)):
        path = tmp_path / 'whole' / f'iter_{iteration}.pth'
        (rank,) = torch.load(path, weights_only=False)['resume_state']['ranks']
        assert rank['workers'] == {}
        resumed = run(tmp_path / path.stem, resume=path, **dict(settings, workers=workers))
        assert equal(resumed, whole), path.name
    assert warnings == []


def test_other_views_or_kept_workers_than_before_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(resume_state, '_warn', warnings.append)
    settings: dict[str, Any] = dict(loop=EPOCHS, workers=0, save_by_epoch=True)
    run(tmp_path / 'whole', **settings)
    run(tmp_path / 'a', resume=tmp_path / 'whole' / 'epoch_2.pth', seeded=True, **settings)
    run(tmp_path / 'b', resume=tmp_path / 'whole' / 'epoch_2.pth', **settings)
    assert len(warnings) == 1
    assert 'seeded_views was None, is (None, 0)' in warnings[0]

    settings.update(workers=1)
    run(tmp_path / 'c', **settings)
    run(tmp_path / 'd', resume=tmp_path / 'c' / 'epoch_2.pth', persistent=True, **settings)
    assert 'persistent_workers was False, is True' in warnings[1]


def test_a_run_that_is_not_resumed_is_the_same_without_the_hook(tmp_path: Path) -> None:
    with_hook = run(tmp_path / 'with', loop=EPOCHS)
    without = run(tmp_path / 'without', loop=EPOCHS, hook=False)
    assert equal(with_hook, without)


def test_without_the_hook_a_resumed_run_ends_elsewhere(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(loop=EPOCHS, save_by_epoch=True, hook=False)
    whole = run(tmp_path / 'whole', **settings)
    resumed = run(tmp_path / 'parts', resume=tmp_path / 'whole' / 'epoch_2.pth', **settings)
    assert not equal(resumed, whole)


class Malicious:
    """Executes a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.trace}',)


def test_states_in_a_checkpoint_are_not_unpickled(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(loop=dict(EPOCHS, max_epochs=1))
    whole = run(tmp_path / 'whole', **settings)
    checkpoint = torch.load(tmp_path / 'whole' / 'iter_1.pth', weights_only=False)
    (rank,) = checkpoint['resume_state']['ranks']
    rank['workers'][7] = pickle.dumps(Malicious(tmp_path / 'executed'))
    torch.save(checkpoint, tmp_path / 'hostile.pth')

    resumed = run(tmp_path / 'parts', resume=tmp_path / 'hostile.pth', **settings)

    assert equal(resumed, whole)
    assert not (tmp_path / 'executed').exists()


def test_what_keeps_a_resumed_run_from_being_the_same_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(resume_state, '_warn', warnings.append)
    settings: dict[str, Any] = dict(loop=EPOCHS, workers=0, save_by_epoch=True)
    run(tmp_path / 'plain', hook=False, **settings)
    run(tmp_path / 'whole', **settings)

    run(tmp_path / 'a', resume=tmp_path / 'plain' / 'epoch_2.pth', **settings)
    run(tmp_path / 'b', resume=tmp_path / 'whole' / 'epoch_2.pth', **dict(settings, workers=1))

    assert 'holds no random states' in warnings[0]
    assert 'workers was 0, is 1' in warnings[1]
    assert len(warnings) == 2
