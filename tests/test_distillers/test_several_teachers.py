"""Several teachers by name: each loss sees its own; and what the student's own loss is multiplied by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from tiny import (
    CKD,
    NUM_CLASSES,
    TINY_RETINANET,
    fresh_hub,
    student_model,
    teacher_model,
    teacher_options,
)
from zoo import batch, gradient, mmdet_scope, one_step

from mmkd.distillers import Distiller

WIDE, DEEP = teacher_options(teacher_model()), teacher_options(student_model(backbone__depth=34))
AVERAGED = dict(type='mmkd.AveragedTeacher')
PKD = dict(type='mmkd.PKDLoss', weight=0.5)
KD = dict(type='mmkd.KDLoss')


def make(losses: dict[str, Any], **options: Any) -> Distiller:
    torch.manual_seed(0)
    with mmdet_scope():
        model = Distiller(student=student_model(), losses=losses, **options)
        model.init_weights()
    return model.train()


def small_batch() -> dict[str, Any]:
    return batch(size=64, num_classes=NUM_CLASSES)


# ---- several teachers


def test_each_loss_sees_its_own_teacher() -> None:
    """Values and gradients are those of two distillers with one teacher each."""
    both = make(
        dict(ckd=CKD | dict(teacher='deep'), pkd=PKD | dict(teacher='wide')),
        teachers=dict(wide=WIDE, deep=DEEP),
    )
    singles = dict(ckd=make(dict(ckd=CKD), teacher=DEEP), pkd=make(dict(pkd=PKD), teacher=WIDE))
    for name, single in singles.items():
        found = one_step(both, small_batch(), of=f'loss_{name}')[f'loss_{name}']
        expected = one_step(single, small_batch(), of=f'loss_{name}')[f'loss_{name}']
        assert torch.equal(found, expected)
        assert torch.equal(gradient(both), gradient(single))


def test_one_kind_of_loss_with_each_of_two_teachers() -> None:
    model = make(
        dict(first=CKD | dict(teacher='wide'), second=CKD | dict(teacher='deep')),
        teachers=dict(wide=WIDE, deep=DEEP),
    )
    losses = one_step(model, small_batch())
    assert losses['loss_first'] != losses['loss_second']


def test_kinds_of_teachers_go_together_and_only_what_is_trained_is_saved() -> None:
    peer = dict(type='mmkd.PeerTeacher', config=WIDE['config'], losses=dict(ckd=CKD))
    model = make(
        dict(
            first=CKD | dict(teacher='frozen'),
            second=CKD | dict(teacher='averaged'),
            third=PKD | dict(teacher='mate'),
        ),
        teachers=dict(frozen=DEEP, averaged=AVERAGED, mate=peer),
    )
    losses = one_step(model, small_batch())
    assert {'loss_first', 'loss_second', 'loss_third', 'mate.loss_ckd'} <= losses.keys()
    extras = {name.split('.')[1] for name in model.state_dict() if name.startswith('distill.')}
    assert extras == {'averaged', 'mate'}


def test_a_teacher_that_no_active_loss_asks_does_not_run() -> None:
    model = make(
        dict(ckd=CKD | dict(teacher='wide'), later=CKD | dict(teacher='deep', weight=0)),
        teachers=dict(wide=WIDE, deep=DEEP),
    )
    model.teachers['deep'].model.backbone.register_forward_hook(lambda *_: pytest.fail('ran'))
    one_step(model, small_batch())


def test_all_are_released_when_the_last_loss_is_over() -> None:
    stops = [dict(type='Stop', at=at, by_epoch=False) for at in (1, 2)]
    model = make(
        dict(
            first=CKD | dict(teacher='wide', weight=stops[0]),
            second=CKD | dict(teacher='deep', weight=stops[1]),
        ),
        teachers=dict(wide=WIDE, deep=DEEP),
    )
    released = []
    for iteration in range(3):
        fresh_hub(iter=iteration, epoch=0, max_iters=4, max_epochs=1)
        one_step(model, small_batch())
        released.append({name for name, teacher in model.teachers.items() if teacher.released})
    assert released == [set(), set(), {'wide', 'deep'}]


def test_a_name_that_no_teacher_has_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"model\.losses\.ckd\.teacher: .*'wise'.*'wide', 'deep'"):
        make(dict(ckd=CKD | dict(teacher='wise')), teachers=dict(wide=WIDE, deep=DEEP))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(teacher=WIDE, teachers=dict(deep=DEEP)), r'model\.teachers'),
        ({}, r'model\.teacher'),
        (dict(teachers={}), r'model\.teachers'),
        (dict(teachers=dict(ckd=WIDE)), r"'ckd' is also the name of a loss"),
    ],
)
def test_what_names_no_teachers_or_too_many_is_an_error(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(dict(ckd=CKD), **options)


# ---- the task's weight


def total(values: Any) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else torch.stack(list(values)).sum()


def test_a_task_weight_of_1_changes_nothing() -> None:
    plain, weighted = (
        make(dict(ckd=CKD), teacher=WIDE, **options) for options in ({}, dict(task_weight=1.0))
    )
    losses, others = one_step(plain, small_batch()), one_step(weighted, small_batch())
    assert all(torch.equal(total(losses[name]), total(others[name])) for name in losses)
    assert torch.equal(gradient(plain), gradient(weighted))


def test_a_task_weight_scales_the_task_and_leaves_the_distillation() -> None:
    plain, weighted = (
        make(dict(ckd=CKD), teacher=WIDE, **options) for options in ({}, dict(task_weight=0.1))
    )
    data = small_batch()
    losses, others = one_step(plain, data), one_step(weighted, data)
    of_all = [gradient(plain), gradient(weighted)]
    for name in ('loss_cls', 'loss_bbox'):
        torch.testing.assert_close(total(others[name]), 0.1 * total(losses[name]))
    assert torch.equal(others['loss_ckd'], losses['loss_ckd'])
    one_step(plain, data, of='loss_ckd')
    distilled = gradient(plain)
    torch.testing.assert_close(of_all[1], 0.1 * (of_all[0] - distilled) + distilled)


def test_a_task_weight_may_be_a_schedule() -> None:
    warmup = dict(type='LinearWarmup', value=0.5, end=2, by_epoch=False)
    model = make(dict(ckd=CKD), teacher=WIDE, task_weight=warmup)
    values = []
    for iteration in range(3):
        fresh_hub(iter=iteration, epoch=0, max_iters=4, max_epochs=1)
        values.append(total(one_step(model, small_batch())['loss_bbox']))
    assert values[0] == 0
    assert 0 < values[1] < values[2]


@pytest.mark.parametrize('weight', [-1, 'much', float('nan')])
def test_a_task_weight_that_is_none_is_an_error(weight: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r'model\.task_weight'):
        make(dict(ckd=CKD), teacher=WIDE, task_weight=weight)


def test_of_a_classifier_too_which_any_kind_of_teacher_may_teach() -> None:
    """Its logged accuracy is no loss and stays."""
    config = Config.fromfile(TINY_RETINANET.with_name('tiny_classifier.py'))
    config.model.head.cal_acc = True
    peer = dict(type='mmkd.PeerTeacher', config=config, losses=dict(kd=KD))
    data = dict(inputs=torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    data['data_samples'] = [DataSample().set_gt_label(label) for label in (0, 1, 1, 0)]
    found = []
    for options in ({}, dict(task_weight=0.1)):
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = Distiller(
                config.model,
                teachers=dict(averaged=AVERAGED, mate=peer),
                losses=dict(first=KD | dict(teacher='averaged'), second=KD | dict(teacher='mate')),
                data_preprocessor=config.data_preprocessor,
                **options,
            )
            model.init_weights()
        found.append(one_step(model.train(), data))
    plain, weighted = found
    torch.testing.assert_close(weighted['loss'], 0.1 * plain['loss'])
    for name in plain.keys() - {'loss'}:
        assert torch.equal(torch.as_tensor(weighted[name]), torch.as_tensor(plain[name])), name
    assert {
        'accuracy_top-1',
        'loss_first',
        'loss_second',
        'mate.loss',
        'mate.loss_kd',
    } <= plain.keys()
