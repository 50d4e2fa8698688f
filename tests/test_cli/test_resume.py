"""Runs of ``tools/train.py`` that are killed, or find damaged files or a full disk, and go on."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from training_runs import differing, in_two_processes, output, train, train_arguments

from mmkd.checkpoints import check_whole

CONFIG = 'tiny_resume'
KILLED = -9
LAST = 'iter_12.pth'
POINTS = {
    # Hook points and how often they are passed: in a step, while saving, between epochs, in validation.
    'before_train_iter': 12,
    'after_train_iter': 12,
    'before_save_checkpoint': 6,
    'before_train_epoch': 4,
    'after_val_iter': 16,
}


@pytest.fixture(scope='module')
def options(tiny_coco: Path) -> list[str]:
    return [f'data_root={tiny_coco}']


@pytest.fixture(scope='module')
def whole(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is never stopped: four epochs of three steps, saved after every second one."""
    folder = tmp_path_factory.mktemp('runs') / 'whole'
    assert train(folder, options=options, config=CONFIG) == 0
    return folder


def test_a_run_killed_several_times_ends_with_the_same_bits(
    whole: Path, options: list[str], tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    parts = tmp_path / 'parts'
    kills = [f'{point} {draw.randint(1, POINTS[point])}' for point in draw.sample(list(POINTS), 3)]
    resume: list[str] = []
    for kill in kills:
        # A run that is resumed late ends before a late point comes.
        ended = train(parts, *resume, options=options, config=CONFIG, kill=kill)
        assert ended in (KILLED, 0), (kills, output(parts).read_text())
        resume = ['--resume']
    assert train(parts, *resume, options=options, config=CONFIG) == 0
    assert differing(whole / LAST, parts / LAST) == [], kills
    assert differing(whole / 'iter_10.pth', parts / LAST) != []


def test_with_seeded_views_it_may_go_on_with_other_workers(
    options: list[str], tmp_path: Path
) -> None:
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    assert train(whole, options=options, config='tiny_views') == 0

    assert train(parts, options=options, config='tiny_views', kill='before_train_iter 9') == KILLED
    others = [*options, 'train_dataloader.num_workers=1']
    assert train(parts, '--resume', options=others, config='tiny_views') == 0

    assert differing(whole / LAST, parts / LAST) == []


def test_after_a_truncated_checkpoint_the_one_before_it_is_taken(
    whole: Path, options: list[str], tmp_path: Path
) -> None:
    parts = tmp_path / 'parts'
    parts.mkdir()
    for name in ('iter_10.pth', LAST):
        shutil.copy(whole / name, parts / name)
    content = (parts / LAST).read_bytes()
    (parts / LAST).write_bytes(content[:-1000])

    assert train(parts, '--resume', options=options, config=CONFIG) == 0

    said = output(parts).read_text()
    assert f'{parts / LAST} is truncated' in said
    assert f'goes on from the one before: {parts / "iter_10.pth"}' in said
    assert differing(whole / LAST, parts / LAST) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of a given number of bytes; called again, the same one with another size."""
    folder = tmp_path / 'parts'
    folder.mkdir()

    def mount(size: int) -> Path:
        mode = 'remount,' if folder.is_mount() else ''
        command = ['mount', '-t', 'tmpfs', '-o', f'{mode}size={size}', 'tmpfs', str(folder)]
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip('no right to mount a small file system')
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(['umount', '--lazy', str(folder)], check=True)


def test_a_full_disk_costs_no_checkpoint(
    whole: Path, options: list[str], small_disk: Callable[[int], Path]
) -> None:
    size = (whole / LAST).stat().st_size
    parts = small_disk(int(2.5 * size))

    assert train(parts, options=options, config=CONFIG) == 1

    said = output(parts).read_text()
    assert f'cannot save {parts}/iter_6.pth' in said
    assert 'No space left on device' in said
    left = sorted(path.name for path in parts.glob('iter_*'))
    assert left == ['iter_2.pth', 'iter_4.pth']
    check_whole(parts / 'iter_4.pth')

    small_disk(20 * size)
    assert train(parts, '--resume', options=options, config=CONFIG) == 0
    assert differing(whole / LAST, parts / LAST) == []


def processes(work_dir: Path, *arguments: str, options: list[str], kill: str = '') -> list[int]:
    """Two processes of one run, the second killed at some point; their exit codes."""
    launched = ('--launcher', 'pytorch', *arguments)
    argv = train_arguments(work_dir, *launched, options=options, config=CONFIG)
    return in_two_processes('train', argv, output(work_dir), kill)


def test_processes_end_with_one_that_is_killed_and_resume_together(
    options: list[str], tmp_path: Path
) -> None:
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    options = [*options, 'train_dataloader.batch_size=2']  # four images for each, in even batches
    assert processes(whole, options=options) == [0, 0]

    first, second = processes(parts, options=options, kill='before_train_iter 6')
    assert second == KILLED
    assert first not in (0, KILLED)
    assert 'by peer' in output(parts).read_text()  # gloo: closed or reset

    assert processes(parts, '--resume', options=options) == [0, 0]
    assert differing(whole / 'iter_8.pth', parts / 'iter_8.pth') == []
