"""`mmkd check`: what a training would do, from a few steps of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tiny import TINY_RETINANET

from mmkd.cli import check
from mmkd.losses import GradientShares

RECIPE = TINY_RETINANET.parent / 'tiny_ckd.py'
TEACHER = [f'model.teacher.config={TINY_RETINANET}', 'model.teacher.checkpoint=random_init']

pytestmark = pytest.mark.usefixtures('clean_environment')
Check = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fresh_names: Callable[[], list[str]],
) -> Check:
    """Check in an empty folder; the exit code, what was printed, and what was said of errors."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.chdir(tmp_path)

    def check_(*arguments: str, options: list[str]) -> tuple[int, str, str]:
        code = check.main([*arguments, '--cfg-options', *fresh_names(), *options])
        captured = capsys.readouterr()
        assert not list(tmp_path.iterdir())
        return code, captured.out, captured.err

    return check_


def test_it_says_what_a_recipe_would_do_and_writes_nothing(run: Check, tiny_coco: Path) -> None:
    code, said, _ = run(str(RECIPE), options=[f'data_root={tiny_coco}', *TEACHER])

    assert code == 0
    lines = dict(line.split(None, 1) for line in said.splitlines())
    assert '2 images of 8' in lines['check']
    assert 'levels of strides 8, 16' in lines['head']
    assert 'samples per image' in lines['loss_ckd']
    assert '% of the gradient, cosine' in lines['loss_ckd']
    assert "times the plain student's" in lines['step']
    assert 'of the plain student' in lines['memory']
    assert 'MiB for a view of all' in lines['store']
    assert 'score' in lines


def test_without_data_or_a_teacher_it_makes_some_up_and_says_that_training_could_not_start(
    run: Check, tmp_path: Path
) -> None:
    recipe = ['--teacher', f'{TINY_RETINANET}=nowhere.pth', '--losses', 'ckd+pkd', '--size', '64']
    code, said, missing = run(
        str(TINY_RETINANET),
        *recipe,
        options=['data_root=/no/such', 'model.losses.pkd.strides=[8,16]'],
    )

    assert code == 2
    assert 'made up' in said
    assert 'loss_pkd' in said
    assert 'random here' in said
    assert 'data: not found' in missing
    assert 'nowhere.pth does not exist' in missing


def test_a_loss_that_waits_is_seen_at_work_and_one_that_drowns_the_task_is_warned_of(
    run: Check, tiny_coco: Path
) -> None:
    late = "model.losses.ckd.weight=dict(type='LinearWarmup', begin=0.2, end=0.4, value=1e6)"
    code, said, _ = run(str(RECIPE), options=[f'data_root={tiny_coco}', *TEACHER, late])
    assert code == 0
    assert '0% into the run' not in said.replace('50%', '')
    assert 'warning: loss_ckd has' in said


def test_a_teacher_that_no_loss_asks_is_not_looked_at(run: Check, tiny_coco: Path) -> None:
    options = [f'data_root={tiny_coco}', *TEACHER, 'model.losses.ckd.weight=0']
    code, said, _ = run(str(RECIPE), '--steps', '1', options=options)
    assert code == 0
    assert 'no weight at this point' in said
    assert ' 0 MiB of weights of teachers' in said


def test_what_keeps_a_training_from_starting_is_said(run: Check, tiny_coco: Path) -> None:
    wrong = 'model.losses.ckd.temperatur=2'
    code, _, said = run(str(RECIPE), options=[f'data_root={tiny_coco}', *TEACHER, wrong])
    assert code == 2
    assert 'temperatur' in said
    code, _, said = run(str(TINY_RETINANET), options=[f'data_root={tiny_coco}'])
    assert code == 2
    assert '--losses' in said
    with pytest.raises(SystemExit, match='2'):
        run(str(RECIPE), '--batch-size', '0', options=TEACHER)
    code, _, said = run(str(RECIPE), options=['train_dataloader=None'])
    assert code == 2
    assert 'no train_dataloader' in said


def test_gradients_are_measured_where_a_student_trains(run: Check, tiny_coco: Path) -> None:
    options = ['--steps', '1']
    frozen, recomputed = (
        run(
            str(RECIPE),
            *options,
            options=[f'data_root={tiny_coco}', *TEACHER, f'model.student.backbone.{option}'],
        )
        for option in ('frozen_stages=4', 'with_cp=True')
    )
    assert frozen[0] == recomputed[0] == 0
    assert '% of the gradient, cosine' in frozen[1]
    assert 'warning: gradients are not measured: backbone' in recomputed[1]


def test_steps_have_the_precision_of_training(
    run: Check, tiny_coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    take = check.take_step

    def taken(*arguments: Any) -> None:
        seen.append(torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu'))
        take(*arguments)

    monkeypatch.setattr(check, 'take_step', taken)
    mixed = ['optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=bfloat16']
    code, said, missing = run(
        str(RECIPE), '--steps', '1', options=[f'data_root={tiny_coco}', *TEACHER, *mixed]
    )
    assert code == 2
    assert 'needs a GPU' in missing
    assert 'with mixed precision' in said
    assert set(seen) == {torch.bfloat16}


def test_timed_steps_measure_no_share_of_the_gradient(
    run: Check, tiny_coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Mock(side_effect=GradientShares._measure)
    monkeypatch.setattr(GradientShares, '_measure', lambda *arguments: measure(*arguments))
    share = "model.losses.ckd.weight=dict(type='mmkd.GradientShare', share=0.2)"
    code, said, _ = run(
        str(RECIPE), '--steps', '1', options=[f'data_root={tiny_coco}', *TEACHER, share]
    )
    assert code == 0
    assert 'share 0.2 of the gradient on neck' in said
    assert measure.call_count == 1


def test_options_of_loading_processes_are_left_out(run: Check, tiny_coco: Path) -> None:
    workers = ['num_workers=2', 'prefetch_factor=4', 'timeout=60']
    options = [f'train_dataloader.{option}' for option in workers]
    code, _, said = run(
        str(RECIPE), '--steps', '1', options=[f'data_root={tiny_coco}', *TEACHER, *options]
    )
    assert code == 0, said


def test_a_loader_without_a_whole_batch_is_named(run: Check, tiny_coco: Path) -> None:
    options = ['train_dataloader.drop_last=True', 'train_dataloader.batch_size=9']
    code, _, said = run(str(RECIPE), options=[f'data_root={tiny_coco}', *TEACHER, *options])
    assert code == 2
    assert '1. train_dataloader: it gives no batch of 9 images' in said


def test_a_store_of_a_teacher_that_is_not_there_is_left_out(run: Check, tiny_coco: Path) -> None:
    options = [TEACHER[0], 'model.teacher.checkpoint=nowhere.pth', 'model.teacher.store=nowhere']
    code, said, missing = run(
        str(RECIPE), '--steps', '1', options=[f'data_root={tiny_coco}', *options]
    )
    assert code == 2
    assert 'random here' in said
    assert 'nowhere.pth' in missing
    assert 'model.teacher.store' not in missing


def test_made_up_images_have_the_classes_of_the_data_sets_within_others(run: Check) -> None:
    names = tuple(f'thing {number}' for number in range(10))
    data = dict(type='CocoDataset', ann_file='/no/such.json', metainfo=dict(classes=names))
    both = dict(type='ConcatDataset', datasets=[data, data])
    code, said, _ = run(
        str(RECIPE),
        *('--steps', '1', '--size', '64'),
        options=[
            f'train_dataloader.dataset={both}',
            *TEACHER,
            f'model.teacher.class_names={names}',
        ],
    )
    assert code == 2
    assert "are the teacher's, in the same order\n" in said
