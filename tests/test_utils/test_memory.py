from __future__ import annotations

import torch
from mmengine.config import Config

from mmkd.utils import memory_advice

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
    error = torch.OutOfMemoryError('Tried to allocate 2.00 GiB')
    advice = memory_advice(Config(CFG), error)
    for text in (
        'Tried to allocate 2.00 GiB',
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
    advice = memory_advice(cfg, torch.OutOfMemoryError('full'))
    for text in ('--amp', 'batch_size', 'chunk_size', 'samples.k'):
        assert text not in advice
