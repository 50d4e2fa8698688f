from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from noise import Noise, end_workers
from torch import Tensor, nn

from mmkd.datasets.seeded_views import SeededViews
from mmkd.hooks import ResumeStateHook, SeededViewsHook

_numbers = itertools.count()


class Recorder(BaseModel):
    """Notes what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []

    def forward(self, x: list[Tensor], mode: str = 'tensor') -> Any:
        self.seen += [each[0].item() for each in x]
        return dict(loss=self.weight * 0)


EPOCHS = dict(by_epoch=True, max_epochs=3)
ITERATIONS = dict(by_epoch=False, max_iters=12)
LAYOUTS = {
    'epochs': dict(loop=EPOCHS),
    'iterations': dict(loop=ITERATIONS),
    'iterations, infinite': dict(loop=ITERATIONS, sampler='InfiniteSampler'),
}


def seen(
    work_dir: Path,
    *,
    loop: dict[str, Any],
    sampler: str = 'DefaultSampler',
    workers: int = 0,
    persistent: bool = False,
    views: int | None = None,
    dataset: Any = None,
    hooks: Sequence[Any] = (SeededViewsHook,),
    resume: Path | None = None,
    by_epoch: bool = False,
    **loader: Any,
) -> list[float]:
    """What a run trains on, one after the other."""
    runner = Runner(
        model=Recorder(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=SeededViews(Noise(7), views=views) if dataset is None else dataset,
            sampler=dict(type=sampler, shuffle=True),
            batch_size=2,
            num_workers=workers,
            persistent_workers=persistent,
            **loader,
        ),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=by_epoch)),
        custom_hooks=[hook() for hook in hooks],
        randomness=dict(seed=3),
        load_from=None if resume is None else str(resume),
        resume=resume is not None,
        experiment_name=f'views_{next(_numbers)}',
        log_level='WARNING',
    )
    runner.train()
    end_workers(runner)
    return runner.model.seen


@pytest.mark.parametrize('name', LAYOUTS)
def test_every_sample_is_that_of_its_epoch_with_any_workers(name: str, tmp_path: Path) -> None:
    views = SeededViews(Noise(7))
    values = seen(tmp_path / 'a', **LAYOUTS[name])
    epochs = range(4)
    expected = [{views[i, epoch]['x'][0].item() for i in range(7)} for epoch in epochs]
    assert [set(values[7 * epoch :][:7]) <= expected[epoch] for epoch in epochs] == [True] * 4
    assert len(set(values)) == len(values) >= 21
    for workers, persistent in ((3, False), (2, True)):
        folder = tmp_path / f'{workers}{persistent}'
        got = seen(folder, workers=workers, persistent=persistent, **LAYOUTS[name])
        assert got == values


def test_views_come_back(tmp_path: Path) -> None:
    values = seen(tmp_path, loop=EPOCHS, views=2, workers=1, persistent=True)
    first, second, third = (sorted(values[start : start + 7]) for start in (0, 7, 14))
    assert first == third != second


@pytest.mark.parametrize(
    ('name', 'saved', 'hooks'),
    [
        ('epochs', 'epoch_1', [SeededViewsHook]),  # in the middle of one, MMEngine begins it again
        ('iterations', 'iter_6', [SeededViewsHook]),
        ('iterations, infinite', 'iter_6', [SeededViewsHook]),
        ('iterations, infinite', 'iter_6', [ResumeStateHook, SeededViewsHook]),
    ],
)
def test_a_resumed_run_goes_on_with_the_same_samples(
    name: str, saved: str, hooks: list[Any], tmp_path: Path
) -> None:
    settings = dict(LAYOUTS[name], hooks=hooks, by_epoch=saved.startswith('epoch'))
    whole = seen(tmp_path / 'whole', workers=2, **settings)
    checkpoint = tmp_path / 'whole' / f'{saved}.pth'
    rest = seen(tmp_path / 'rest', workers=2, resume=checkpoint, **settings)
    assert rest == whole[-len(rest) :]
    assert 0 < len(rest) < len(whole)


def test_batches_per_epoch_may_be_fewer(tmp_path: Path) -> None:
    values = seen(tmp_path, loop=EPOCHS, num_batch_per_epoch=2)
    views = SeededViews(Noise(7))
    for epoch in range(3):
        expected = {views[index, epoch]['x'][0].item() for index in range(4)}
        assert set(values[4 * epoch :][:4]) == expected


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'train_dataloader\.dataset is Noise'):
        seen(tmp_path, loop=EPOCHS, dataset=Noise(7))


def test_without_the_hook_the_run_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match='SeededViewsHook'):
        seen(tmp_path, loop=EPOCHS, hooks=())
