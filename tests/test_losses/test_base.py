"""What all losses share: weights, rows, float32 and the errors of their options."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass
from typing import Any

import asks
import pytest
import torch
import zoo
from tiny import student_model, teacher_model
from torch import Tensor

from mmkd.functional import aekt_loss, center_rows, standardize_rows
from mmkd.losses import AllSamples, DistillLoss, FeatureLoss, KDLoss, LogitLoss
from mmkd.registry import LOSSES, SAMPLERS, build
from mmkd.structures import (
    ClassMaps,
    FeaturePair,
    Features,
    LogitPairs,
    Logits,
    Progress,
    Step,
)


class Difference(LogitLoss):
    """Sum of student minus teacher, and what it was computed of."""

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs, step: Step) -> Tensor:
        self.seen = student, teacher
        return (student - teacher).sum()


class CentredDifference(Difference):
    """The same with another default for rows."""

    def default_rows(self, activation: Any) -> Any:
        return 'center'


class SoftmaxOnly(Difference):
    """For one kind of head."""

    activation = 'softmax'
    alternative = 'mmkd.OtherLoss'


class LevelSum(FeatureLoss):
    """Sum of all levels."""

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        self.seen = pairs
        return torch.stack([pair.student.sum() - pair.teacher.sum() for pair in pairs]).sum()


def test_the_weight_is_a_number_or_follows_a_schedule() -> None:
    assert Difference(weight=2).weight(Progress()) == 2.0
    warmup = Difference(weight=dict(type='LinearWarmup', end=4, value=2.0))
    assert [warmup.weight(Progress(epoch=epoch)) for epoch in (0, 1, 4)] == [0, 0.5, 2]


def test_a_wrong_weight_names_the_loss() -> None:
    with pytest.raises(TypeError, match=r"Difference\.weight: 'much'"):
        Difference(weight='much')  # type: ignore[arg-type]


def test_rows_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Difference\.rows: 'norm'"):
        Difference(rows='norm')  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('kind', 'rows', 'expected'),
    [
        (Difference, None, lambda rows: rows),
        (Difference, 'raw', lambda rows: rows),
        (Difference, 'center', center_rows),
        (Difference, 'standardize', standardize_rows),
        (CentredDifference, None, center_rows),
        (CentredDifference, 'raw', lambda rows: rows),
    ],
)
def test_rows_of_both_networks_are_preprocessed_alike(
    kind: type[Difference], rows: Any, expected: Any, make_table: Any, step_of: Any
) -> None:
    table = make_table('sigmoid')
    loss = kind(rows=rows)
    loss(step_of(table))
    for seen, given in zip(loss.seen, (table.student, table.teacher), strict=True):
        torch.testing.assert_close(seen, expected(given))


def test_the_value_is_the_mean_over_tables(make_table: Any, step_of: Any) -> None:
    tables = [make_table('sigmoid', samples=count, seed=count) for count in (4, 9)]
    parts = [Difference()(step_of(table)) for table in tables]
    torch.testing.assert_close(Difference()(step_of(*tables)), (parts[0] + parts[1]) / 2)


def test_only_picked_samples_count(make_table: Any, step_of: Any) -> None:
    table = make_table('sigmoid')
    loss = Difference(samples=dict(type='mmkd.Positives'))
    loss(step_of(table))
    assert torch.equal(loss.seen[0], table.student[table.is_foreground()])
    assert 0 < len(loss.seen[0]) < len(table)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(
    dtype: torch.dtype, make_table: Any, step_of: Any
) -> None:
    table = make_table('softmax')
    table.student, table.teacher = table.student.to(dtype), table.teacher.to(dtype)
    loss = Difference()
    assert loss(step_of(table)).dtype == torch.float32
    assert {part.dtype for part in loss.seen} == {torch.float32}


def test_double_precision_is_kept(make_table: Any, step_of: Any) -> None:
    assert Difference()(step_of(make_table('softmax'))).dtype == torch.float64


def test_a_loss_for_another_kind_of_head_names_the_one_to_use(make_table: Any, attach: Any) -> None:
    config = dict(type=SoftmaxOnly)
    attach(config, make_table('softmax'))
    with pytest.raises(
        ValueError, match=r'SoftmaxOnly is for softmax heads.*sigmoid head: use mmkd\.OtherLoss'
    ):
        attach(config, make_table('sigmoid'))


def test_a_sampler_that_is_not_hashable_is_named_before_the_first_step() -> None:
    @dataclass
    class FirstSamples:
        number: int = 3

        def __call__(self, table: Any) -> Tensor:
            return torch.arange(self.number)

    SAMPLERS.register_module(module=FirstSamples)
    losses = dict(kd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.FirstSamples')))
    try:
        with pytest.raises(ValueError, match=r'model\.losses\.kd: .*FirstSamples.* not hashable'):
            zoo.distiller(student_model(), teacher_model(), losses)
    finally:
        del SAMPLERS.module_dict['FirstSamples']


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_features_come_at_least_in_float32(dtype: torch.dtype) -> None:
    pairs = [
        FeaturePair(level, 8, torch.full((1, 2, 2, 2), 300.0, dtype=dtype), torch.ones(1, 2, 2, 2))
        for level in range(3)
    ]
    loss = LevelSum()
    value = asks.on_features(loss, pairs)
    assert value == 3 * 8 * 299
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert [pair.level for pair in loss.seen] == [0, 1, 2]


def test_what_the_losses_ask_for_is_known_before_the_first_step() -> None:
    assert Difference(teacher='big').requests() == (Logits('big', samples=AllSamples()),)
    assert LevelSum().requests() == (Features(),)
    assert LevelSum(at=['backbone.layer1', 'class_maps']).requests() == (
        Features(at='backbone.layer1'),
        ClassMaps(),
    )
    with pytest.raises(TypeError, match='abstract'):
        DistillLoss()  # type: ignore[abstract]


def test_modules_of_student_and_teacher_are_named_in_pairs() -> None:
    pairs = LevelSum(at=['backbone.layer1', 'neck'], teacher_at=['backbone.stage1', 'neck'])
    assert pairs.requests()[0] == Features(at='backbone.layer1', teacher_at='backbone.stage1')
    with pytest.raises(ValueError, match=r'LevelSum: at names 2 modules, teacher_at 1'):
        LevelSum(at=['backbone.layer1', 'neck'], teacher_at='neck')
    for at in (3, ['neck', 3]):
        with pytest.raises(TypeError, match=r'LevelSum\.at:'):
            LevelSum(at=at)
        with pytest.raises(TypeError, match=r'LevelSum\.teacher_at:'):
            LevelSum(teacher_at=at)
    for places in (dict(at='class_maps', teacher_at='neck'), dict(teacher_at='class_maps')):
        with pytest.raises(ValueError, match=r"LevelSum\.teacher_at: 'class_maps' .* 'neck'"):
            LevelSum(**places)


def test_options_are_those_of_the_class_its_bases_and_its_function() -> None:
    options = inspect.signature(KDLoss).parameters
    assert {'weight', 'samples', 'rows', 'target', 'teacher', 'temperature'} == options.keys()
    assert options['temperature'].default == 4.0
    with pytest.raises(
        TypeError, match=r'KDLoss has no option temprature; its options are: .*temperature'
    ):
        KDLoss(temprature=3)


@pytest.mark.parametrize(
    ('loss', 'option', 'values'),
    [
        ('CKDLoss', 'temperature', [0, -1, math.nan, math.inf, '1.0', None]),
        ('CKDLoss', 'negatives', ['foo', None]),
        ('CKDLoss', 'chunk_size', [0, -1, 2.5, '64']),
        ('KDLoss', 'temperature', [0, '4']),
        ('DKDLoss', 'temperature', [0, '4']),
        ('DKDLoss', 'alpha', [-1, math.nan, math.inf, '1', None]),
        ('DKDLoss', 'beta', [-1, math.nan, '8']),
        ('NKDLoss', 'gamma', [-1, math.nan, '8']),
        ('DISTLoss', 'beta', [-1, math.nan, '8']),
        ('DISTLoss', 'gamma', [-1, math.nan, '8']),
        ('AEKTLoss', 'alpha', [-1, math.nan, '8']),
        ('AEKTLoss', 'beta', [-1, math.nan, '8']),
        ('AEKTLoss', 'gamma', [-1, math.nan, '8']),
        ('AEKTLoss', 'r_max', [0, math.inf, '8']),
        ('QFLKDLoss', 'beta', [0.5, math.inf, '1']),
        ('LDLoss', 'temperature', [0, math.inf, '10']),
        ('ReviewKDLoss', 'mid_channels', [0, 2.5, '256']),
        ('ReviewKDLoss', 'strides', [8, '8']),
        ('PKDLoss', 'strides', [8, '8']),
    ],
)
def test_a_wrong_option_is_named_when_built_whatever_the_weight(
    loss: str, option: str, values: list[Any]
) -> None:
    """It would else end the run in the epoch in which the weight is no longer 0."""
    later = dict(type='LinearWarmup', begin=20, end=40)
    for value in values:
        config = dict(type=f'mmkd.{loss}', weight=later, **{option: value})
        with pytest.raises(
            ValueError, match=rf'^model\.losses\.tested\.{option}: {re.escape(repr(value))} is '
        ):
            build(LOSSES, config, 'model.losses.tested')


def test_options_that_exclude_each_other_are_named_when_built() -> None:
    config = dict(type='mmkd.CKDLoss', negatives='student_student', symmetric=True)
    with pytest.raises(ValueError, match=r'model\.losses\.ckd\.symmetric=True .* no meaning'):
        build(LOSSES, config, 'model.losses.ckd')


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_target_of_the_teacher_is_its_highest_logit_whatever_the_assignment(
    activation, make_table, attach, step_of
) -> None:
    table = make_table(activation, labels=None)
    options = dict(beta=2.0, temperature=3.0)
    recipe = dict(type='mmkd.AEKTLoss', target='teacher', samples=dict(type='mmkd.AllSamples'))

    value = attach(recipe | options, table)(step_of(table))

    expected = aekt_loss(
        table.student, table.teacher, table.teacher.argmax(1), activation=activation, **options
    )
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(('loss', 'target'), [('KDLoss', 'teacher'), ('DKDLoss', 'student')])
def test_a_target_that_means_nothing_is_named(loss, target) -> None:
    with pytest.raises(ValueError, match=r'model\.losses\.it\.target'):
        build(LOSSES, dict(type=f'mmkd.{loss}', target=target), 'model.losses.it')
