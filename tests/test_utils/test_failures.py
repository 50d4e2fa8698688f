from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader, Dataset

from mmkd.registry import LOSSES, build
from mmkd.utils import advice_on, override_data_root, setting_at_fault

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


class Unreadable(Dataset):
    """Data with an image that is none, or nothing at all."""

    def __init__(self, path: Path) -> None:
        self.results = dict(img_path=str(path))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        return LoadImageFromFile()(self.results)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('content', [None, b'', b'no image'], ids=['missing', 'empty', 'text'])
def test_an_image_that_cannot_be_read_is_explained(
    tmp_path: Path, content: bytes | None, workers: int
) -> None:
    path = tmp_path / 'a.jpg'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((OSError, AssertionError, cv2.error)) as caught:
        next(iter(DataLoader(Unreadable(path), num_workers=workers, collate_fn=list)))
    advice = advice_on(caught.value, Config({})) or ''
    assert '--bad-images skip' in advice
    assert str(path) in advice or workers


def test_an_error_in_a_worker_is_no_killed_worker() -> None:
    error = RuntimeError('Caught RuntimeError in DataLoader worker process 0.')
    assert advice_on(error, Config({})) is None


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)) as caught:
        call()
    return caught.value


def test_what_is_said_of_a_setting_is_told_from_mistakes() -> None:
    config = dict(type='mmkd.CDKLoss')
    wanted = raised(lambda: build(LOSSES, config, where='model.losses.ckd'))
    assert setting_at_fault(wanted) == str(wanted)
    unknown = setting_at_fault(raised(lambda: HOOKS.build(dict(type='NoHook')))) or ''
    assert unknown.startswith('NoHook is not in the')
    option = (
        setting_at_fault(raised(lambda: HOOKS.build(dict(type='IterTimerHook', intervall=1)))) or ''
    )
    assert 'intervall' in option

    # Raised elsewhere, raised by Python within this package, and what is said of numbers in the middle of a run.
    assert setting_at_fault(raised(lambda: int('x'))) is None
    assert setting_at_fault(raised(lambda: override_data_root(None, 'x'))) is None  # type: ignore[arg-type]
    assert setting_at_fault(FloatingPointError('nan')) is None


def test_other_errors_are_left_alone() -> None:
    assert advice_on(ValueError('anything'), Config({})) is None
