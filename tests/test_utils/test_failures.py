from __future__ import annotations

import os
import signal

import pytest
import torch
from mmengine.config import Config
from torch.utils.data import DataLoader, Dataset

from mmkd.utils import advice_on

CFG = dict(
    train_dataloader=dict(batch_size=8),
    optim_wrapper=dict(type='OptimWrapper', accumulative_counts=2),
    model=dict(
        student={},
        teacher={},
        losses=dict(
            ckd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.TeacherTopK', k=256)),
            kd=dict(type='mmkd.KDLoss'),
        ),
    ),
)


def test_the_advice_names_what_this_run_can_change() -> None:
    error = torch.OutOfMemoryError('Tried to allocate 2.00 GiB')  # no GPU here
    advice = advice_on(error, Config(CFG)) or ''
    for text in (
        '--amp',
        'train_dataloader.batch_size=4 optim_wrapper.accumulative_counts=4',
        'model.losses.ckd.chunk_size=1024',
        'model.losses.ckd.samples.k=128',
        '--resume',
    ):
        assert text in advice
    assert 'model.losses.kd' not in advice


def test_what_is_set_already_is_not_advised() -> None:
    cfg = Config(CFG)
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.train_dataloader.batch_size = 1
    cfg.model.losses.ckd.chunk_size = 512
    cfg.model.losses.ckd.samples = dict(type='mmkd.Positives')
    advice = advice_on(torch.OutOfMemoryError('full'), cfg) or ''
    for text in ('--amp', 'batch_size', 'chunk_size', 'samples.k'):
        assert text not in advice


class Killed(Dataset):
    """Data whose loading process is killed, as the system does it when memory is short."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_killed_worker_is_explained() -> None:
    with pytest.raises(RuntimeError, match='DataLoader worker') as caught:
        next(iter(DataLoader(Killed(), num_workers=1)))
    cfg = Config(dict(train_dataloader=dict(num_workers=4)))
    advice = advice_on(caught.value, cfg) or ''
    assert 'fewer than 4' in advice
    assert 'train_dataloader.num_workers' in advice


def test_other_errors_are_left_alone() -> None:
    assert advice_on(ValueError('anything'), Config({})) is None
