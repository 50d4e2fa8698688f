"""`mmkd check`: what a training would do, from a few steps of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import TINY_RETINANET

from mmkd.cli import check

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


def test_what_keeps_a_training_from_starting_is_said(run: Check, tiny_coco: Path) -> None:
    wrong = 'model.losses.ckd.temperatur=2'
    code, _, said = run(str(RECIPE), options=[f'data_root={tiny_coco}', *TEACHER, wrong])
    assert code == 2
    assert 'temperatur' in said
    code, _, said = run(str(TINY_RETINANET), options=[f'data_root={tiny_coco}'])
    assert code == 2
    assert '--losses' in said
