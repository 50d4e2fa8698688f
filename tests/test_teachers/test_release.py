"""Once every weight is 0 for good, the teacher's memory is freed, and nothing else changes."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tiny import (
    CKD,
    NUM_CLASSES,
    TINY_RETINANET,
    fresh_hub,
    make_runner,
    recipe,
    same,
    student_model,
    teacher_model,
    train,
    weights,
)
from torch.multiprocessing.reductions import StorageWeakRef
from zoo import batch, distiller, one_step, pair

from mmkd.distillers import Distiller
from mmkd.losses import DistillLoss
from mmkd.teachers import FrozenTeacher
from mmkd.utils import override_data_root

STOP = dict(type='Stop', at=1)
RUN = dict(max_iters=4, max_epochs=2)


def storages(teacher: FrozenTeacher) -> list[StorageWeakRef]:
    """Weak references to the memory of the teacher's weights."""
    tensors = (*teacher.model.parameters(), *teacher.model.buffers())
    return [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]


def freed(references: list[StorageWeakRef]) -> bool:
    gc.collect()
    return all(reference.expired() for reference in references)


@pytest.mark.parametrize(
    'config',
    [
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    ],
)
def test_the_step_after_the_last_one_frees_the_teacher(config: str) -> None:
    """Head and neck adapters, taps, and an EMA copy of the model refer to parts of it."""
    losses = dict(ckd=CKD | dict(weight=STOP))
    if 'detr' not in config:
        losses['pkd'] = dict(type='mmkd.PKDLoss', weight=STOP)
    model = distiller(*pair(config), losses=losses)
    average = copy.deepcopy(model)
    held = storages(model.teacher)
    fresh_hub(iter=1, epoch=0, **RUN)
    assert 'loss_ckd' in one_step(model, batch())
    assert not any(reference.expired() for reference in held)
    fresh_hub(iter=2, epoch=1, **RUN)
    assert 'loss_ckd' not in one_step(model, batch())
    assert freed(held)
    assert model.teacher.released
    assert average.teacher.released


def test_a_copy_that_was_converted_keeps_its_own_teacher() -> None:
    model = distiller(student_model(), teacher_model(), dict(ckd=CKD | dict(weight=STOP)))
    copies = copy.deepcopy(model), copy.deepcopy(model).double()
    copies = *copies, copy.deepcopy(copies[0])
    model.teacher.release()
    assert [each.teacher.released for each in copies] == [True, False, True]


def test_the_students_methods_are_its_own_again() -> None:
    model = distiller(student_model(), teacher_model(), dict(ckd=CKD | dict(weight=0)))
    assert '_get_targets_single' in vars(model.bbox_head)
    assert any(module._forward_hooks for module in model.student.modules())
    one_step(model, batch(size=64, num_classes=NUM_CLASSES))
    assert '_get_targets_single' not in vars(model.bbox_head)
    assert not any(module._forward_hooks for module in model.student.modules())


@pytest.mark.parametrize(
    ('weights', 'over'),
    [
        ([STOP, STOP], True),
        ([STOP, dict(type='Stop', at=2)], False),
        ([STOP, dict(type='LinearWarmup', begin=1, end=2)], False),
        ([0, dict(type='CosineDecay', end=1)], True),
    ],
)
def test_the_teacher_stays_while_any_weight_may_come(weights: list[Any], over: bool) -> None:
    losses = {f'ckd_{i}': CKD | dict(weight=weight) for i, weight in enumerate(weights)}
    model = distiller(student_model(), teacher_model(), losses=losses)
    fresh_hub(iter=2, epoch=1, **RUN)
    one_step(model, batch(size=64, num_classes=NUM_CLASSES))
    assert model.teacher.released is over


def test_moves_of_the_model_go_past_a_released_teacher() -> None:
    model = distiller(student_model(), teacher_model(), losses={})
    one_step(model, batch(size=64, num_classes=NUM_CLASSES))
    assert model.teacher.released
    model.to(torch.device('cpu')).double()
    assert {p.device.type for p in model.teacher.model.parameters()} == {'meta'}


def test_a_weight_that_comes_back_is_an_error() -> None:
    model = distiller(student_model(), teacher_model(), dict(ckd=CKD | dict(weight=STOP)))
    data = batch(size=64, num_classes=NUM_CLASSES)
    fresh_hub(iter=2, epoch=1, **RUN)
    one_step(model, data)
    fresh_hub(iter=0, epoch=0, **RUN)
    with pytest.raises(RuntimeError, match='ckd: the weight is not 0, but the teacher was release'):
        one_step(model, data)


# ---- whole runs


@pytest.fixture(scope='module')
def config(tiny_coco: Path) -> Config:
    """Three epochs of four iterations, the last two without the teacher, with a moving average."""
    plain = Config.fromfile(TINY_RETINANET)
    override_data_root(plain, str(tiny_coco))
    plain.merge_from_dict(
        {
            'train_cfg.max_epochs': 3,
            'train_cfg.val_interval': 3,
            'custom_hooks': [
                dict(type='EMAHook', momentum=0.5),
                dict(type='mmkd.ResumeStateHook'),
            ],
        }
    )
    return recipe(plain, dict(ckd=CKD | dict(weight=STOP)))


@pytest.fixture(scope='module')
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run that frees its teacher leaves behind."""
    work_dir = tmp_path_factory.mktemp('whole')
    runner = make_runner(config, work_dir)
    held = storages(runner.model.teacher)
    runner.train()
    return dict(runner=runner, held=held, work_dir=work_dir, weights=weights(runner.model))


def test_a_run_frees_the_teacher_though_its_moving_average_shares_it(whole: Any) -> None:
    assert freed(whole['held'])
    (log,) = whole['work_dir'].glob('*/*.log')
    (line,) = (line for line in log.read_text().splitlines() if 'are freed' in line)
    assert 'from iteration 4 on the weight of every distillation loss is 0' in line


def test_training_goes_on_as_with_the_teacher_still_there(
    whole: Any, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DistillLoss, 'is_over', lambda self, progress: False)
    kept = train(config, tmp_path)
    assert not kept.model.teacher.released
    assert same(weights(kept.model), whole['weights'])


@pytest.mark.parametrize('epoch', [1, 2])
def test_a_run_resumed_around_the_release_ends_with_the_same_weights(
    whole: Any, config: Config, epoch: int, tmp_path: Path
) -> None:
    again = Config(config.to_dict())
    again.merge_from_dict(
        {'resume': True, 'load_from': str(whole['work_dir'] / f'epoch_{epoch}.pth')}
    )
    runner = make_runner(again, tmp_path)
    held = storages(runner.model.teacher)
    runner.train()
    assert freed(held)
    assert isinstance(runner.model, Distiller)
    assert same(weights(runner.model), whole['weights'])
