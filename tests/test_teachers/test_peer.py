"""A peer trained beside the student: each learns from the other and neither's gradient reaches the other."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from tiny import (
    CKD,
    NUM_CLASSES,
    TINY_RETINANET,
    recipe,
    same,
    student_model,
    teacher_model,
    train,
    weights,
)
from torch import Tensor
from zoo import batch, mmdet_scope, one_step

from mmkd.checkpoints import load_checkpoint
from mmkd.distillers import Distiller
from mmkd.heads import plain_weights
from mmkd.losses import LogitLoss
from mmkd.registry import LOSSES
from mmkd.structures import LogitPairs, Logits, Step
from mmkd.utils import override_data_root
from mmkd.utils.export import export_student

PREFIX = 'distill.teacher.'
PKD = dict(type='mmkd.PKDLoss')


@LOSSES.register_module()
class CrossedSquares(LogitLoss):
    """What the teacher's head makes of the student's features, as CrossKD compares it."""

    def requests(self) -> tuple[Logits]:
        return (Logits(self.teacher, samples=self.sampler, crossed=1),)

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs, step: Step) -> Tensor:
        return (student - teacher).square().sum(dim=1).mean()


def peer(losses: Mapping[str, Any] | None = None, model: Any = None) -> dict[str, Any]:
    return dict(
        type='mmkd.PeerTeacher',
        config=dict(model=teacher_model() if model is None else model, default_scope='mmdet'),
        losses=dict(ckd=CKD) if losses is None else losses,
    )


def make(**options: Any) -> Distiller:
    torch.manual_seed(0)
    with mmdet_scope():
        options = dict(student=student_model(), teacher=peer(), losses=dict(ckd=CKD)) | options
        model = Distiller(**options)
        model.init_weights()
    return model.train()


def small_batch() -> dict[str, Any]:
    return batch(size=64, num_classes=NUM_CLASSES)


def reached(model: Distiller) -> set[str]:
    """Which of the two networks have a gradient."""
    return {
        'peer' if name.startswith('distill.') else 'student'
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


# ---- both learn


def test_both_networks_train() -> None:
    model = make()
    before = weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = one_step(model, small_batch())
    optimizer.step()
    assert {'loss_ckd', 'teacher.loss_ckd', 'loss_cls', 'teacher.loss_cls'} <= losses.keys()
    changed = {
        name for name, value in weights(model).items() if not torch.equal(value, before[name])
    }
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for side in (True, False):
        ours = {name for name in trained if name.startswith(PREFIX) is side}
        assert len(ours & changed) > len(ours) / 2


def test_two_peers_of_one_config_begin_with_weights_of_their_own() -> None:
    torch.manual_seed(0)
    with mmdet_scope():
        student, mates = student_model(), dict(one=peer({}), two=peer({}))
        model = Distiller(student, teachers=mates, losses={})
        after = torch.rand(3)
        torch.manual_seed(0)
        again = Distiller(student, teachers=dict(one=peer({})), losses={})
    first, second = (each.model.state_dict() for each in model.teachers.values())
    assert not torch.equal(first['backbone.conv1.weight'], second['backbone.conv1.weight'])
    assert same(first, again.teachers['one'].model.state_dict()), 'whoever stands beside it'
    assert torch.equal(after, torch.rand(3)), 'the run draws the same numbers'


@pytest.mark.parametrize(
    ('kind', 'options'),
    [('ckd', CKD), ('pkd', PKD), ('crossed', dict(type='CrossedSquares'))],
)
def test_no_gradient_reaches_the_other(kind: str, options: dict[str, Any]) -> None:
    """Also where the student's features go through the peer's head."""
    model = make(losses={kind: options}, teacher=peer({kind: options}))
    data = small_batch()
    one_step(model, data, of=f'loss_{kind}')
    assert reached(model) == {'student'}
    one_step(model, data, of=f'teacher.loss_{kind}')
    assert reached(model) == {'peer'}
    assert all(p.requires_grad for p in model.teacher.model.bbox_head.parameters())


def test_the_peer_sees_the_same_as_it_would_alone() -> None:
    """Its own losses are those of a plain network on these pixels."""
    model = make()
    alone = copy.deepcopy(model.distill['teacher']['model'])
    losses, own = one_step(model, small_batch()), one_step(alone, small_batch())
    for name, value in own.items():
        assert torch.equal(torch.stack(list(losses[f'teacher.{name}'])), torch.stack(list(value)))


def test_it_does_not_start_as_the_students_twin() -> None:
    model = make(teacher=peer(model=student_model()))
    ours = model.student.state_dict()
    for name, parameter in model.teacher.model.named_parameters():
        if parameter.dim() > 1:
            assert not torch.equal(parameter, ours[name]), name


def test_what_its_config_freezes_stays_frozen() -> None:
    frozen = dict(
        backbone__norm_cfg=dict(type='BN', requires_grad=False), backbone__frozen_stages=1
    )
    model = make(teacher=peer(model=student_model(**frozen)))
    with mmdet_scope():
        alone = make(student=student_model(**frozen), losses={}).student
    free = [
        {
            name
            for name, p in network.named_parameters()
            if p.requires_grad and 'distill' not in name
        }
        for network in (model.teacher.model, alone)
    ]
    assert free[0] == free[1]
    assert not any('bn' in name for name in free[0])


def test_a_loss_of_the_peer_whose_weight_is_0_is_not_computed() -> None:
    model = make(
        teacher=peer(
            dict(ckd=CKD, later=PKD | dict(weight=dict(type='LinearWarmup', begin=5, end=6)))
        )
    )
    losses = one_step(model, small_batch())
    assert 'teacher.loss_ckd' in losses
    assert 'teacher.loss_later' not in losses


def test_a_loss_of_the_peer_that_is_not_finite_is_named() -> None:
    model = make(teacher=peer(dict(ckd=CKD | dict(weight=1e38, temperature=1e-3))))
    with pytest.raises(FloatingPointError, match=r'teacher\.loss_ckd'):
        one_step(model, small_batch())


def test_with_a_weight_of_0_the_student_trains_as_a_plain_one() -> None:
    off = make(losses=dict(ckd=CKD | dict(weight=0)))
    torch.manual_seed(0)
    with mmdet_scope():
        plain = MODELS.build(student_model())
        plain.init_weights()
    for model in (off, plain.train()):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
        for seed in range(3):
            one_step(model, batch(size=64, num_classes=NUM_CLASSES, seed=seed))
            optimizer.step()
    assert same(student_part(weights(off)), weights(plain))


# ---- names


def test_its_keys_are_under_distill_alone() -> None:
    model = make()
    with mmdet_scope():
        plain = make(losses={}, teacher=dict(type='mmkd.AveragedTeacher')).student
    ours = {name for name in model.state_dict() if not name.startswith('distill.')}
    assert ours == plain.state_dict().keys()
    theirs = model.state_dict().keys() - ours
    assert {name.removeprefix(f'{PREFIX}model.') for name in theirs} == (
        model.teacher.model.state_dict().keys()
    )


def test_a_layer_of_the_peers_own_loss_stays_out_of_the_exported_student() -> None:
    """It belongs into the class layer of the peer's head."""
    aekt = dict(type='mmkd.AEKTLoss', serial='distill_then_task')
    model = make(teacher=peer(dict(aekt=aekt)))
    layer = model.distill['teacher']['losses']['aekt'].task_layer
    torch.nn.init.normal_(layer.offset)
    assert one_step(model, small_batch())['teacher.loss_aekt'] > 0
    state = weights(model)
    assert any(name.endswith('task_layer.offset') for name in state)
    with mmdet_scope():
        plain = MODELS.build(student_model())
    assert same(plain_weights(plain, state), student_part(state))


# ---- copies and number types


def test_a_copy_has_a_peer_of_its_own_weights() -> None:
    """An EMA copy averages the peer, too."""
    model = make()
    twin = copy.deepcopy(model)
    one_step(model, small_batch())
    torch.nn.init.zeros_(twin.distill['teacher']['model'].bbox_head.retina_cls.weight)
    assert model.distill['teacher']['model'].bbox_head.retina_cls.weight.any()
    assert model.teacher.model is model.distill['teacher']['model']
    assert one_step(model, small_batch())['loss_ckd'] > 0


def test_it_follows_the_number_type() -> None:
    model = make().double()
    assert {p.dtype for p in model.teacher.model.parameters()} == {torch.float64}
    model.half()
    assert {p.dtype for p in model.teacher.model.parameters()} == {torch.float16}
    assert {p.dtype for p in model.student.parameters()} == {torch.float16}


# ---- bad input


@pytest.mark.parametrize('losses', [dict(ckd=CKD), dict(pkd=PKD)], ids=['logits', 'features'])
def test_a_peer_with_other_classes_is_refused_before_the_first_step(losses: dict[str, Any]) -> None:
    """It learns the student's ground truth, whatever the two compare."""
    other = peer(losses, model=teacher_model(bbox_head__num_classes=NUM_CLASSES + 1))
    with pytest.raises(ValueError, match=r'number of classes: the student has 10, the teacher 11'):
        make(teacher=other, losses=losses)


def test_an_error_in_its_losses_names_them() -> None:
    with pytest.raises(ValueError, match=r'model\.teacher\.losses: KDLoss'):
        make(teacher=peer(dict(kd=dict(type='mmkd.KDLoss'))))


# ---- whole runs


@pytest.fixture(scope='module')
def plain_config(tiny_coco: Path) -> Config:
    config = Config.fromfile(TINY_RETINANET)
    override_data_root(config, str(tiny_coco))
    config.merge_from_dict(
        {
            'train_cfg.val_interval': 9,
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.checkpoint.by_epoch': False,
            'custom_hooks': [
                dict(type='EMAHook', momentum=0.5),
                dict(type='mmkd.ResumeStateHook'),
            ],
        }
    )
    return config


def student_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith('distill.')}


def test_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(
    plain_config: Config, tmp_path: Path
) -> None:
    """The loss begins after the stop, within an epoch; an export drops the peer."""
    warmup = dict(type='LinearWarmup', begin=1, end=3, by_epoch=False)
    config = recipe(plain_config, dict(ckd=CKD | dict(weight=warmup)))
    config.model.teacher = peer()
    whole = train(config, tmp_path / 'whole')
    checkpoint = tmp_path / 'whole' / 'iter_2.pth'
    resumed = Config(config.to_dict())
    resumed.merge_from_dict({'resume': True, 'load_from': str(checkpoint)})
    again = train(resumed, tmp_path / 'resumed')
    assert again.iter == whole.iter == 4
    assert same(weights(again.model), weights(whole.model))

    saved = torch.load(checkpoint, weights_only=False)['state_dict']
    assert any(name.startswith(PREFIX) for name in saved)
    student = export_student(config, checkpoint, tmp_path / 'exported')
    exported = load_checkpoint(student.checkpoint)['state_dict']
    assert same(exported, student_part(saved))
