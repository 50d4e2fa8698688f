from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mmkd.experiments import Action, EvaluationRun, StageError, TrainingRun, relative_path

CONFIG = """
default_scope = 'mmdet'
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
lr = 0.1
"""


@pytest.fixture
def training(tmp_path: Path) -> TrainingRun:
    """A training of three epochs that depends on one file of data."""
    (tmp_path / 'config.py').write_text(CONFIG)
    (tmp_path / 'data.json').write_text('{}')
    return TrainingRun(
        'student',
        str(tmp_path / 'config.py'),
        tmp_path / 'work' / 'student',
        options=('randomness.seed=1',),
        inputs=(tmp_path / 'data.json',),
    )


def save_epoch(training: TrainingRun, epoch: int) -> Path:
    """What MMEngine's CheckpointHook leaves after an epoch."""
    path = training.work_dir / f'epoch_{epoch}.pth'
    path.write_text(f'weights {epoch}')
    (training.work_dir / 'last_checkpoint').write_text(str(path))
    return path


def test_a_new_training_starts(training: TrainingRun) -> None:
    decision, command = training.prepare()
    assert decision.action is Action.START
    assert command[1:] == [
        'tools/train.py', training.config, '--work-dir', str(training.work_dir),
        '--cfg-options', 'randomness.seed=1',
    ]  # fmt: skip


def test_an_interrupted_training_is_continued_from_its_last_epoch(training: TrainingRun) -> None:
    training.prepare()
    save_epoch(training, 1)
    last = save_epoch(training, 2)
    # Cut short by a kill: MMEngine names a checkpoint only once it is written.
    (training.work_dir / 'epoch_3.pth').write_text('wei')
    decision, command = training.prepare()
    assert (decision.action, decision.checkpoint) == (Action.RESUME, last)
    assert command[command.index('--resume') + 1] == str(last)
    assert last.exists()


def test_a_finished_training_is_reused_wherever_its_folder_was_made(training: TrainingRun) -> None:
    training.prepare()
    save_epoch(training, 3)
    (training.work_dir / 'last_checkpoint').write_text('/elsewhere/student/epoch_3.pth')
    decision = training.decide()
    assert (decision.action, decision.checkpoint) == (Action.REUSE, training.checkpoint)


def test_without_a_finished_epoch_it_starts_over(training: TrainingRun) -> None:
    training.prepare()
    decision = training.decide()
    assert decision.action is Action.START
    assert 'before the first epoch' in decision.reason


def test_a_pointer_to_a_missing_checkpoint_is_not_followed(training: TrainingRun) -> None:
    training.prepare()
    save_epoch(training, 2).unlink()
    assert training.decide().action is Action.START


@pytest.mark.parametrize('change', ['config', 'option', 'input', 'record'])
def test_a_training_of_something_else_starts_over(training: TrainingRun, change: str) -> None:
    training.prepare()
    save_epoch(training, 3)
    if change == 'config':
        Path(training.config).write_text(CONFIG.replace('0.1', '0.2'))
    elif change == 'option':
        training = dataclasses.replace(training, options=('randomness.seed=2',))
    elif change == 'input':
        training.inputs[0].write_text('{"images": []}')
    else:
        (training.work_dir / 'run.json').write_text('{"fingerpr')
    decision = training.decide()
    assert decision.action is Action.START
    expected = {'input': 'data.json', 'record': 'cannot be read'}.get(change, 'the config')
    assert expected in decision.reason


def test_comments_and_the_work_folder_do_not_make_another_training(training: TrainingRun) -> None:
    training.prepare()
    save_epoch(training, 3)
    Path(training.config).write_text(CONFIG + '# A comment.\n')
    moved = training.work_dir.rename(training.work_dir.with_name('moved'))
    assert dataclasses.replace(training, work_dir=moved).decide().action is Action.REUSE


def test_another_trainings_checkpoints_are_set_aside_not_removed(training: TrainingRun) -> None:
    training.prepare()
    save_epoch(training, 3)
    training.finish(60.0, succeeded=True)
    Path(training.config).write_text(CONFIG.replace('0.1', '0.2'))
    training.prepare()
    old = training.work_dir.with_name('student.old')
    assert (old / 'epoch_3.pth').read_text() == 'weights 3'
    assert not list(training.work_dir.glob('*.pth'))
    assert training.seconds == 0
    # Nothing worth keeping was made since: what was set aside stays.
    training.prepare()
    assert (old / 'epoch_3.pth').exists()


def test_time_adds_up_over_calls(training: TrainingRun) -> None:
    training.prepare()
    save_epoch(training, 2)
    training.finish(30.0, succeeded=False)
    training.prepare()
    save_epoch(training, 3)
    training.finish(12.0, succeeded=True)
    assert training.seconds == 42


def test_a_training_that_ends_without_its_last_checkpoint_has_failed(
    training: TrainingRun,
) -> None:
    training.prepare()
    save_epoch(training, 2)
    with pytest.raises(StageError, match=r'student: .*epoch_3\.pth'):
        training.finish(1.0, succeeded=True)


@pytest.fixture
def evaluation(training: TrainingRun) -> EvaluationRun:
    training.prepare()
    save_epoch(training, 3)
    work_dir = training.work_dir / 'test'
    return EvaluationRun('student, test', training.config, training, work_dir)


def leave_results(evaluation: EvaluationRun) -> None:
    """What tools/test.py leaves behind."""
    folder = evaluation.work_dir / '20260101_000000'
    (folder / 'vis_data').mkdir(parents=True)
    (folder / '20260101_000000.json').write_text(json.dumps({'coco/bbox_mAP': 0.25, 'time': 1.0}))
    evaluation.predictions.write_bytes(b'predictions')


def test_an_evaluation_keeps_its_metrics_and_is_reused(evaluation: EvaluationRun) -> None:
    decision, command = evaluation.prepare()
    assert decision.action is Action.START
    assert command[1:4] == [
        'tools/test.py', evaluation.config, str(evaluation.training.checkpoint)
    ]  # fmt: skip
    leave_results(evaluation)
    evaluation.finish(5.0, succeeded=True)
    assert evaluation.metrics == {'coco/bbox_mAP': 0.25}
    assert evaluation.decide().action is Action.REUSE
    assert evaluation.after == ('student',)


def test_other_weights_are_evaluated_again(evaluation: EvaluationRun) -> None:
    evaluation.prepare()
    leave_results(evaluation)
    evaluation.finish(5.0, succeeded=True)
    evaluation.training.checkpoint.write_text('other weights')
    decision, _ = evaluation.prepare()
    assert decision.action is Action.START
    assert 'epoch_3.pth' in decision.reason
    assert not evaluation.predictions.exists()


def test_an_evaluation_that_failed_or_left_nothing_is_not_taken_for_done(
    evaluation: EvaluationRun,
) -> None:
    evaluation.prepare()
    evaluation.finish(5.0, succeeded=False)
    assert evaluation.decide().action is Action.START
    with pytest.raises(StageError, match='left no metrics'):
        evaluation.finish(5.0, succeeded=True)


def test_paths_inside_the_repository_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'clone' / 'tools').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'clone' / 'tools')
    assert relative_path('a', tmp_path / 'clone') == Path('tools/a')
    assert relative_path('/b', tmp_path / 'clone') == Path('/b')
