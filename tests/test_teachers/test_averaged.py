"""The moving average of the student as its teacher: its value, whom it is hidden from, and exact resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from tiny import (
    CKD,
    NUM_CLASSES,
    TINY_RETINANET,
    fresh_hub,
    recipe,
    same,
    student_model,
    train,
    weights,
)
from torch import Tensor
from zoo import batch, mmdet_scope, one_step

from mmkd.checkpoints import load_checkpoint
from mmkd.distillers import Distiller
from mmkd.utils import override_data_root
from mmkd.utils.export import export_student

AVERAGED = dict(type='mmkd.AveragedTeacher', momentum=0.9)
PREFIX = 'distill.teacher.'


def make(**options: Any) -> Distiller:
    torch.manual_seed(0)
    with mmdet_scope():
        options = dict(student=student_model(), teacher=AVERAGED, losses=dict(ckd=CKD)) | options
        model = Distiller(**options)
        model.init_weights()
    return model.train()


def steps(model: Distiller, count: int, first: int = 0) -> list[dict[str, Tensor]]:
    """Train; the student's weights before each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen = []
    for iteration in range(first, first + count):
        fresh_hub(iter=iteration, epoch=0, max_iters=100, max_epochs=1)
        seen.append({key: value.clone() for key, value in model.student.state_dict().items()})
        one_step(model, batch(size=64, num_classes=NUM_CLASSES, seed=iteration))
        optimizer.step()
    return [
        {key: value for key, value in each.items() if not key.startswith('distill.')}
        for each in seen
    ]


def recursion(seen: list[dict[str, Tensor]], momentum: float) -> dict[str, Tensor]:
    """a_i = m a_(i-1) + (1 - m) w_i in float64; counters as they are."""
    averages = {key: value.double() for key, value in seen[0].items()}
    for current in seen[1:]:
        for key, value in current.items():
            average = momentum * averages[key] + (1 - momentum) * value.double()
            averages[key] = average if value.is_floating_point() else value.double()
    return averages


@pytest.mark.parametrize('momentum', [0.0, 0.9, 0.999])
def test_it_follows_the_recursion_weights_and_running_statistics_alike(momentum: float) -> None:
    model = make(teacher=AVERAGED | dict(momentum=momentum))
    seen = steps(model, 4)
    expected = recursion(seen, momentum)
    found = model.teacher.model.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value, rtol=1e-6, atol=1e-7)
    assert not same(seen[0], seen[-1]), 'the student has moved'
    assert not model.teacher.model.training


def test_in_a_training_loop_of_ones_own_every_step_counts() -> None:
    """No MMEngine run counts iterations there."""
    model = make(teacher=AVERAGED | dict(momentum=0.5))
    fresh_hub()
    data = batch(size=64, num_classes=NUM_CLASSES)
    one_step(model, data)
    first = weights(model.teacher.model)
    with torch.no_grad():
        model.student.bbox_head.retina_cls.weight.add_(1.0)
    one_step(model, data)
    moved = model.teacher.model.bbox_head.retina_cls.weight
    torch.testing.assert_close(moved, first['bbox_head.retina_cls.weight'] + 0.5)


def test_a_second_look_at_a_step_does_not_move_it() -> None:
    model = make()
    steps(model, 2)
    before = weights(model.teacher.model)
    torch.nn.init.normal_(model.student.backbone.conv1.weight)
    one_step(model, batch(size=64, num_classes=NUM_CLASSES))
    assert same(before, model.teacher.model.state_dict())


@pytest.mark.parametrize('momentum', [-0.1, 1.0, 1.5])
def test_a_momentum_out_of_its_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=r'teacher\.momentum'):
        make(teacher=AVERAGED | dict(momentum=momentum))


# ---- a guest


def test_no_one_else_sees_its_tensors() -> None:
    """What optimizers, DDP and EMA ask a model for is the student's; the averages get no gradient."""
    model = make()
    with mmdet_scope():
        plain = Distiller(student_model(), AVERAGED, {}).student
    steps(model, 2)
    hidden = {id(tensor) for tensor in model.teacher.model.state_dict(keep_vars=True).values()}
    assert [name for name, _ in model.named_parameters()] == [
        n for n, _ in plain.named_parameters()
    ]
    assert [name for name, _ in model.named_buffers()] == [n for n, _ in plain.named_buffers()]
    assert not hidden & {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert not any(p.requires_grad or p.grad is not None for p in model.teacher.model.parameters())
    for update_buffers in (False, True):
        average = ExponentialMovingAverage(model, momentum=0.5, update_buffers=update_buffers)
        before = weights(model.teacher.model)
        average.update_parameters(model)
        average.update_parameters(model)
        assert same(before, model.teacher.model.state_dict())


def test_it_is_saved_under_distill_and_comes_back() -> None:
    model, other = make(), make()
    steps(model, 3)
    state = model.state_dict()
    saved = {key.removeprefix(PREFIX): state[key] for key in state if key.startswith(PREFIX)}
    assert same(saved, model.teacher.model.state_dict())
    other.load_state_dict(state, strict=True)
    assert same(other.teacher.model.state_dict(), saved)
    seen = steps(other, 1, first=3)
    key = 'bbox_head.retina_cls.weight'
    torch.testing.assert_close(
        other.teacher.model.state_dict()[key], 0.9 * saved[key] + 0.1 * seen[0][key]
    )


def test_with_a_plain_students_checkpoint_it_starts_anew() -> None:
    model = make()
    steps(model, 3)
    plain = {key: value.clone() for key, value in model.teacher.model.state_dict().items()}
    plain['bbox_head.retina_cls.weight'] *= 2
    model.load_state_dict(plain, strict=True)
    assert not any(key.startswith(PREFIX) for key in model.state_dict())
    steps(model, 1)
    assert same(weights(model.teacher.model), plain)


# ---- whole runs


@pytest.fixture(scope='module')
def plain_config(tiny_coco: Path) -> Config:
    """Two epochs of four iterations with a flip to be drawn, saved after every second one."""
    config = Config.fromfile(TINY_RETINANET)
    override_data_root(config, str(tiny_coco))
    config.merge_from_dict(
        {
            'train_cfg.max_epochs': 2,
            'train_cfg.val_interval': 9,
            'default_hooks.checkpoint.interval': 3,
            'default_hooks.checkpoint.by_epoch': False,
            'custom_hooks': [
                dict(type='EMAHook', momentum=0.5),
                dict(type='mmkd.ResumeStateHook'),
            ],
        }
    )
    return config


WEIGHTS = {
    'later': dict(type='LinearWarmup', begin=4, end=6, by_epoch=False),
    'not_to_the_end': dict(type='Stop', at=2, by_epoch=False),
}


@pytest.mark.parametrize('weight', WEIGHTS)
def test_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(
    plain_config: Config, weight: str, tmp_path: Path
) -> None:
    """Resumed within an epoch, with the loss not yet on, or off for good and the average freed."""
    config = recipe(plain_config, dict(ckd=CKD | dict(weight=WEIGHTS[weight])))
    config.model.teacher = dict(AVERAGED)
    whole = train(config, tmp_path / 'whole')
    checkpoint = tmp_path / 'whole' / 'iter_3.pth'
    resumed = Config(config.to_dict())
    resumed.merge_from_dict({'resume': True, 'load_from': str(checkpoint)})
    again = train(resumed, tmp_path / 'resumed')
    assert again.iter == whole.iter == 8
    ours, theirs = weights(again.model), weights(whole.model)
    assert same(ours, theirs)
    released = weight == 'not_to_the_end'
    assert whole.model.teacher.released is again.model.teacher.released is released
    assert any(key.startswith(PREFIX) for key in ours) is not released


def test_an_export_is_the_plain_student(plain_config: Config, tmp_path: Path) -> None:
    config = recipe(plain_config, dict(ckd=CKD))
    config.model.teacher = dict(AVERAGED)
    config.merge_from_dict({'train_cfg.max_epochs': 1})
    train(config, tmp_path / 'run')
    saved = torch.load(tmp_path / 'run' / 'iter_3.pth', weights_only=False)['state_dict']
    assert any(key.startswith(PREFIX) for key in saved)
    student = export_student(config, tmp_path / 'run' / 'iter_3.pth', tmp_path / 'exported')
    exported = load_checkpoint(student.checkpoint)['state_dict']
    assert same(exported, {k: v for k, v in saved.items() if not k.startswith('distill.')})
