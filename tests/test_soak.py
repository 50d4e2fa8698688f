"""A run with every hook on keeps no more at its end than after three epochs: tensors, open files, threads."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny import CKD, make_runner, recipe

HOOKS = (
    'TeacherCheck', 'DistillMonitor', 'DistillVisualization', 'FiniteLoss', 'ResumeState', 'ExportStudent',
)  # fmt: skip


class Watch(Hook):
    """Notes what the process holds after the third epoch, when what is made once is there, and after the last."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.held: list[dict[str, int]] = []

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        if runner.epoch not in (2, runner.max_epochs - 1):
            return
        gc.collect()
        tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        files = len(os.listdir('/proc/self/fd'))
        self.held.append(dict(tensors=tensors, files=files, threads=threading.active_count()))


class Leak(Hook):
    """Keeps the loss and an open file of every iteration."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.kept.append((torch.zeros(1), open(os.devnull)))  # noqa: SIM115


@pytest.mark.filterwarnings('ignore::ResourceWarning')
@pytest.mark.parametrize('leaks', [False, True])
def test_nothing_piles_up(tiny_config: Config, tmp_path: Path, leaks: bool) -> None:
    config = recipe(tiny_config, dict(ckd=CKD, review=dict(type='mmkd.ReviewKDLoss')))
    config.merge_from_dict(
        {
            'train_cfg.max_epochs': 5,
            'optim_wrapper.optimizer.lr': 1e-4,
            'visualizer.vis_backends': [
                dict(type='LocalVisBackend'),
                dict(type='TensorboardVisBackend'),
            ],
            'default_hooks.checkpoint': dict(
                type='mmkd.WholeCheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=2
            ),
            'custom_hooks': [
                dict(type='EMAHook', momentum=0.01),
                *(dict(type=f'mmkd.{name}Hook') for name in HOOKS),
            ],
        }
    )
    runner = make_runner(config, tmp_path)
    watch = Watch()
    runner.register_hook(watch)
    if leaks:
        runner.register_hook(Leak())

    runner.train()

    early, late = watch.held
    grown = {name for name in early if late[name] > early[name]}
    assert grown == ({'tensors', 'files'} if leaks else set()), watch.held
