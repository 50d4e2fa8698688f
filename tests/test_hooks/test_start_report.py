"""The block at the start of a run says what is really run; asking for it changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from tiny import make_runner, same
from zoo import mmdet_scope

from mmkd.distillers import Distiller
from mmkd.hooks import StartReportHook

REPORT = dict(type='mmkd.StartReportHook')
MAP = 'coco/bbox_mAP'


@pytest.fixture(scope='module')
def reported(run_with: Callable[..., Any]) -> Any:
    return run_with(REPORT)


def block(log: str) -> dict[str, str]:
    """Name of each line of the block to its text."""
    (text,) = re.findall(r'distillation\n((?:  .*\n)+)', log)
    return dict(line.strip().split(None, 1) for line in text.splitlines())


def test_the_block_names_what_is_distilled(
    reported: Any, trained_teacher: tuple[Config, Path]
) -> None:
    parts = block(reported.log)
    assert parts['student'] == 'RetinaNet'
    assert parts['teacher'].endswith(f'weights of {trained_teacher[1]}')
    assert parts['classes'].startswith("the student's 10 are the teacher's, in the same order")
    assert 'nothing names them' in parts['classes'], 'the checkpoint does not'
    assert parts['head'] == (
        'AnchorHeadAdapter reads RetinaHead, of the teacher RetinaHead; levels of strides 8, 16, 32, 64, 128'
    )
    assert parts['loss_ckd'] == 'CKDLoss, weight 2, samples PositivesAndTeacherTopK(k=8)'
    assert parts['loss_pkd'] == (
        'PKDLoss, weight 0.5, features at neck, strides 8, 16, 32, 64, 128'
    )
    hooks = [type(hook).__name__ for hook in reported.runner.hooks]
    assert parts['hooks'] == ', '.join(hooks)
    assert 'StartReportHook' in hooks


def test_several_teachers_and_the_tasks_weight_are_named(
    tiny_distillation: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(tiny_distillation.to_dict())
    model = config.model
    model.teachers = dict(big=model.pop('teacher'), mean=dict(type='mmkd.AveragedTeacher'))
    model.losses.ckd.teacher = model.losses.pkd.teacher = 'big'
    warmup = dict(type='LinearWarmup', value=2.0, end=2)
    model.losses.self_kd = dict(type='mmkd.QFLKDLoss', teacher='mean', weight=warmup)
    model.task_weight = 0.1
    (text,) = report(config, tmp_path, monkeypatch)
    assert re.search(r'\n  task_weight +0\.1\n', text)
    assert re.search(r'\n  teacher big +RetinaNet of .*\n', text)
    assert re.search(r'\n  teacher mean +RetinaNet, AveragedTeacher\n', text)
    assert re.search(r"\n  classes of mean .* the teacher's, in the same order\n", text)
    assert (
        'QFLKDLoss of mean, weight 0 now, LinearWarmup(value=2.0, begin=0, end=2, by_epoch=True)'
        in text
    )
    assert "of the first teacher, 'big', on" in text


def test_the_score_is_the_teachers(run_with: Callable[..., Any], reported: Any) -> None:
    checked = run_with(dict(type='mmkd.TeacherCheckHook'), REPORT)
    scores = checked.hook('TeacherCheckHook').scores
    assert block(reported.log)['score'] == (
        f'{MAP} of the teacher on the validation set is {scores["teacher"][MAP]:.4g}, of the student before training '
        f'{scores["student"][MAP]:.4g}'
    )
    assert 'score' not in block(checked.log), 'what another hook says is not said again'


def test_training_is_the_same_with_and_without_the_report(
    reported: Any, without_hooks: Any
) -> None:
    assert same(reported.weights, without_hooks.weights)


def report(
    config: Config, work_dir: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[str]:
    """What the hook says before the training of a recipe, which does not take place."""
    runner = make_runner(config, work_dir)
    assert runner.train_loop is not None
    assert runner.val_loop is not None or config.val_cfg is None
    runner.call_hook('before_run')
    runner.call_hook('before_train')
    return said_by(StartReportHook(**options), runner, monkeypatch)


def said_by(hook: StartReportHook, runner: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr('mmkd.hooks.start_report.print_log', lambda text, *_: said.append(text))
    with mmdet_scope():
        hook.before_train(runner)
    return said


def test_a_poor_teacher_is_warned_of(
    tiny_distillation: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    config = Config(tiny_distillation.to_dict())
    config.model.teacher.config.model.test_cfg.score_thr = 1.1
    said = report(config, tmp_path, monkeypatch, images=2)
    assert '2 of 4 batches' in said[0]
    assert re.search(r'not better than the student .*TeacherCheckHook', said[1])
    printed = ''.join(capfd.readouterr())  # tables that do not say whose they are
    assert 'Average Precision' not in printed
    assert 'Evaluating' not in printed


@pytest.mark.parametrize('case', ['no validation', 'averaged'])
def test_where_no_score_can_be_had_the_teacher_does_not_run(
    case: str, tiny_distillation: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(tiny_distillation.to_dict())
    if case == 'no validation':
        config.merge_from_dict({'val_dataloader': None, 'val_cfg': None, 'val_evaluator': None})
    else:
        config.model.teacher = dict(type='mmkd.AveragedTeacher')
    monkeypatch.setattr(Distiller, 'predict_teacher', None)
    (text,) = report(config, tmp_path, monkeypatch)
    assert 'score' not in text


def test_a_teacher_is_not_scored_unasked_or_for_nothing_and_a_failure_does_not_end_the_run(
    reported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distiller, 'predict_teacher', lambda self, data: 1 / 0)
    runner = reported.runner
    monkeypatch.setattr(runner.train_loop, '_iter', 0)
    (text,) = said_by(StartReportHook(), runner, monkeypatch)
    assert 'could not be scored: ZeroDivisionError' in text
    (text,) = said_by(StartReportHook(images=0), runner, monkeypatch)
    assert 'score' not in text
    for loss in runner.model.distill_losses.values():
        monkeypatch.setattr(loss, 'is_over', lambda progress: True)
    (text,) = said_by(StartReportHook(), runner, monkeypatch)
    assert 'score' not in text


def test_a_negative_number_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r'StartReportHook\.images is -1'):
        StartReportHook(images=-1)
