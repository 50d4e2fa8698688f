"""The teacher's score is the one of a plain evaluation of it, and asking for it changes nothing."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny import (
    TINY_RETINANET,
    make_runner,
    same,
    save,
    teacher_options,
    train,
)
from zoo import mmdet_scope

from mmkd.hooks import TeacherCheckHook
from mmkd.utils import override_data_root

CHECK = dict(type='mmkd.TeacherCheckHook')
MAP = 'coco/bbox_mAP'


def plain_score(config: Config, checkpoint: Path, work_dir: Path) -> float:
    """MMEngine's own validation of a plain model."""
    runner = make_runner(config, work_dir)
    runner.load_checkpoint(str(checkpoint))
    return runner.val()[MAP]


@pytest.fixture(scope='module')
def checked(run_with: Callable[..., Any]) -> Any:
    return run_with(CHECK, default_hooks__checkpoint__interval=1)


def test_the_score_is_that_of_the_teacher_evaluated_as_a_plain_model(
    checked: Any, trained_teacher: tuple[Config, Path], tmp_path: Path
) -> None:
    """On its own pixels: mean, std and channel order are others than the student's."""
    expected = plain_score(*trained_teacher, tmp_path)
    assert expected > 0.01
    assert checked.hook('TeacherCheckHook').scores['teacher'][MAP] == expected


def test_the_log_has_the_teachers_score_and_the_students_start(checked: Any) -> None:
    scores = checked.hook('TeacherCheckHook').scores
    (line,) = re.findall('teacher check: .*', checked.log)
    assert line == (
        f'teacher check: {MAP} of the teacher on the validation set is {scores["teacher"][MAP]:.4g}, '
        f'of the student before training {scores["student"][MAP]:.4g}'
    )


def test_training_is_the_same_with_and_without_the_check(checked: Any, without_hooks: Any) -> None:
    """Weights, what the message hub says, and the validations."""
    assert same(checked.weights, without_hooks.weights)
    ours, theirs = (run.runner.message_hub for run in (checked, without_hooks))
    names = {name for name in theirs.log_scalars if not name.endswith('time')}
    assert names == {name for name in ours.log_scalars if not name.endswith('time')}
    assert f'val/{MAP}' in names
    for name in names:
        assert (ours.get_scalar(name).data[0] == theirs.get_scalar(name).data[0]).all()


def test_a_resumed_run_is_not_checked_again(
    checked: Any, tiny_distillation: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, said = check(
        tiny_distillation, tmp_path, monkeypatch, resume=str(checked.work_dir / 'epoch_1.pth')
    )
    assert said == ['teacher check: skipped, as the run is resumed']
    assert hook.scores == {}


# ---- without training


def check(
    config: Config,
    work_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    resume: str = '',
    **options: Any,
) -> tuple[TeacherCheckHook, list[str]]:
    """What the hook finds and says before the training of a recipe, which does not take place."""
    said: list[str] = []
    monkeypatch.setattr('mmkd.hooks.teacher_check.print_log', lambda text, *_: said.append(text))
    runner = make_runner(config, work_dir)
    assert runner.train_loop is not None
    assert runner.val_loop is not None
    if resume:
        runner.resume(resume)
    runner.call_hook('before_run')
    runner.call_hook('before_train')
    hook = TeacherCheckHook(**options)
    with mmdet_scope():
        hook.before_train(runner)
    return hook, said


def test_a_teacher_that_finds_nothing_is_warned_of(
    tiny_distillation: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(tiny_distillation.to_dict())
    config.model.teacher.config.model.test_cfg.score_thr = 1.1
    hook, said = check(config, tmp_path, monkeypatch, expected=0.4)
    assert hook.scores['teacher'] == {}
    assert len(said) == 3
    assert re.match(rf'teacher check: the teacher \({MAP} 0\) is not better than', said[1])
    assert re.match(
        rf"teacher check: the teacher's {MAP} is 0, far below the expected 0.4", said[2]
    )


@pytest.mark.parametrize(('factor', 'warned'), [(0.5, False), (1.05, False), (1.2, True)])
def test_a_score_within_the_tolerance_of_the_expected_one_is_not_warned_of(
    checked: Any, factor: float, warned: bool
) -> None:
    scores = copy.deepcopy(checked.hook('TeacherCheckHook').scores)
    hook = TeacherCheckHook(expected=scores['teacher'][MAP] * factor, compare_student=False)
    hook.scores = scores
    _, warnings = hook._report(4)
    assert any('far below' in text for text in warnings) is warned


def test_images_without_objects_say_nothing_about_the_teacher() -> None:
    """COCO's evaluator scores them -1."""
    hook = TeacherCheckHook(num_batches=1, expected=0.4)
    hook.scores = {'teacher': {MAP: -1.0}, 'student': {MAP: -1.0}}
    text, warnings = hook._report(4)
    assert 'no objects' in text
    assert not warnings


def test_some_batches_are_scored_as_a_data_set_of_their_images(
    tiny_distillation: Config,
    trained_teacher: tuple[Config, Path],
    tiny_coco: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config(tiny_distillation.to_dict())
    hook, said = check(config, tmp_path / 'some', monkeypatch, num_batches=2, compare_student=False)
    few = Config(trained_teacher[0].to_dict())
    few.val_dataloader.dataset.indices = [0, 1]
    annotations = restrict(tiny_coco / 'annotations/instances_val2017.json', 2, tmp_path)
    few.val_evaluator.ann_file = annotations
    assert hook.scores['teacher'][MAP] == plain_score(few, trained_teacher[1], tmp_path / 'few')
    assert 'on 2 of 4 batches of the validation set' in said[0]


def restrict(annotations: Path, count: int, folder: Path) -> str:
    import json

    content = json.loads(annotations.read_text())
    content['images'] = content['images'][:count]
    kept = {image['id'] for image in content['images']}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in kept]
    path = folder / 'few.json'
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize('losses', [['ckd', 'pkd'], ['pkd']], ids=['logits', 'features_only'])
def test_classes_in_another_order_are_brought_to_the_data_sets(
    losses: list[str],
    tiny_distillation: Config,
    trained_teacher: tuple[Config, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same teacher with its class channels turned round, and an eleventh class, scores the same."""
    names = list(tiny_distillation.metainfo.classes)
    checkpoint = torch.load(trained_teacher[1], weights_only=False)
    state = checkpoint['state_dict']
    for key in ('bbox_head.retina_cls.weight', 'bbox_head.retina_cls.bias'):
        turned = state[key].flip(0)
        never = torch.full_like(turned[:1], -20.0 if key.endswith('bias') else 0.0)
        state[key] = torch.cat([never, turned])
    path = tmp_path / 'turned.pth'
    torch.save(
        checkpoint | dict(meta=dict(dataset_meta=dict(classes=['blob', *names[::-1]]))), path
    )
    model = copy.deepcopy(trained_teacher[0].model)
    model.bbox_head.num_classes = 11
    config = Config(tiny_distillation.to_dict())
    config.model.losses = {name: config.model.losses[name] for name in losses}
    scores = []
    for number, (teacher, file) in enumerate(
        [(trained_teacher[0].model, trained_teacher[1]), (model, path)]
    ):
        config.model.teacher = teacher_options(teacher, str(file))
        hook, _ = check(
            config, tmp_path / str(number), monkeypatch, compare_student=False, metric=MAP
        )
        scores.append(hook.scores['teacher'][MAP])
    assert scores[0] > 0.01
    assert scores[1] == pytest.approx(scores[0], abs=0.02)


def test_metainfo_in_another_order_than_the_annotation_file_changes_nothing(
    checked: Any, tiny_distillation: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MMDetection numbers labels in the file's order, and so does the teacher."""
    config = Config(tiny_distillation.to_dict())
    names = tuple(config.metainfo.classes)
    config.model.teacher.class_names = names
    config.merge_from_dict({'train_dataloader.dataset.metainfo.classes': names[::-1]})
    hook, _ = check(config, tmp_path, monkeypatch, compare_student=False)
    assert hook.scores['teacher'] == checked.hook('TeacherCheckHook').scores['teacher']


def test_an_unknown_metric_lists_the_known(
    tiny_distillation: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=rf"no 'mAP'; it gives .*{MAP}"):
        check(tiny_distillation, tmp_path, monkeypatch, metric='mAP', compare_student=False)


def test_a_run_without_validation_says_what_to_set(
    tiny_distillation: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(tiny_distillation.to_dict())
    config.merge_from_dict({'val_dataloader': None, 'val_cfg': None, 'val_evaluator': None})
    runner = make_runner(config, tmp_path)
    assert isinstance(runner, Runner)
    with pytest.raises(ValueError, match=r'no validation set .*: set val_dataloader'):
        TeacherCheckHook().before_train(runner)


@pytest.mark.parametrize('num_batches', [0, -1])
def test_less_than_one_batch_is_refused(num_batches: int) -> None:
    with pytest.raises(ValueError, match='num_batches'):
        TeacherCheckHook(num_batches=num_batches)


def test_a_classifiers_accuracy(tiny_imagenet: Path, tmp_path: Path) -> None:
    """Top-1 of a teacher that has learned its two colours, on its own pixels."""
    config = Config.fromfile(TINY_RETINANET.with_name('tiny_classifier.py'))
    override_data_root(config, str(tiny_imagenet))
    config.train_dataloader.collate_fn = config.val_dataloader.collate_fn = dict(
        type='default_collate'
    )
    config.default_hooks.checkpoint.interval = -1
    other = Config(config.to_dict())
    other.data_preprocessor = dict(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True, num_classes=2)
    other.train_cfg.max_epochs = 6
    other.optim_wrapper.optimizer = dict(type='Adam', lr=5e-3)
    teacher = train(other, tmp_path / 'teacher')
    expected = teacher.val()['accuracy/top1']
    config.model = dict(
        type='mmkd.Distiller',
        student=config.model,
        teacher=dict(
            config=other.to_dict(), checkpoint=str(save(teacher.model, tmp_path / 'teacher.pth'))
        ),
        losses=dict(ckd=dict(type='mmkd.CKDLoss')),
    )
    config.custom_hooks = [CHECK]
    runner = train(config, tmp_path / 'student')
    hook = next(hook for hook in runner.hooks if isinstance(hook, TeacherCheckHook))
    assert hook.scores['teacher']['accuracy/top1'] == expected
    assert expected > 50
