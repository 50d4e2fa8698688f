"""What a user of ``tools/train.py`` sees when something goes wrong in the middle of a run."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from training_runs import finish, output, start, train

CONFIG = 'tiny_retinanet'
NO_VALIDATION = ['val_dataloader=None', 'val_cfg=None', 'val_evaluator=None']


@pytest.fixture
def options(tiny_coco: Path) -> list[str]:
    return [f'data_root={tiny_coco}', *NO_VALIDATION]


def test_a_loss_turned_nan_ends_the_run_before_it_is_saved(
    options: list[str], tmp_path: Path
) -> None:
    steps = ['default_hooks.checkpoint.by_epoch=False', 'optim_wrapper.optimizer.lr=1e30']
    run = tmp_path / 'run'

    assert train(run, options=[*options, *steps], config=CONFIG) == 1

    said = re.search(
        r'FloatingPointError: loss.* is (nan|inf) at iteration (\d)', output(run).read_text()
    )
    assert said is not None
    saved = [path.name for path in run.glob('*.pth')]
    assert saved == [f'iter_{step + 1}.pth' for step in range(int(said[2]))]


def test_a_killed_worker_is_explained(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / 'run'
    workers = ['train_dataloader.num_workers=2', 'train_dataloader.prefetch_factor=1']
    kill = 'before_train_iter 1 worker'

    assert train(run, options=[*options, *workers], config=CONFIG, kill=kill) == 1

    said = output(run).read_text()
    assert 'RuntimeError: DataLoader worker' in said
    assert 'fewer than 2 of them' in said


def test_unreadable_images_are_named_and_replaced_on_request(
    tiny_coco: Path, tmp_path: Path
) -> None:
    data = tmp_path / 'data'
    shutil.copytree(tiny_coco, data)
    missing, broken = sorted((data / 'train2017').iterdir())[:2]
    missing.unlink()
    broken.write_bytes(b'no image')
    options = [f'data_root={data}', *NO_VALIDATION]

    assert train(tmp_path / 'strict', options=options, config=CONFIG) == 1
    assert train(tmp_path / 'lenient', '--bad-images', 'skip', options=options, config=CONFIG) == 0

    advice = output(tmp_path / 'strict').read_text().splitlines()[-1]
    assert '--bad-images skip' in advice
    assert str(missing) in advice or str(broken) in advice
    warnings = output(tmp_path / 'lenient').read_text()
    for path in (missing, broken):
        assert f'image {path} cannot be read' in warnings
    assert (tmp_path / 'lenient' / 'epoch_1.pth').is_file()


def stop(run: Path, number: signal.Signals, *arguments: str, at: str, options: list[str]) -> str:
    """Start a run, send it a signal when it passes a hook point, and return what it says then."""
    run.mkdir(exist_ok=True)
    (run / 'paused').unlink(missing_ok=True)
    process = start(run, *arguments, options=options, config=CONFIG, kill=f'{at} pause')
    wait_for_pause(process, run)
    os.kill(process.pid, number)
    assert finish(process) == 128 + number
    said = output(run).read_text()
    assert 'Traceback' not in said
    return said.splitlines()[-1]


def wait_for_pause(process: Any, run: Path) -> None:
    while not (run / 'paused').exists():
        assert process.is_alive(), output(run).read_text()
        process.join(0.1)


def test_a_run_that_is_stopped_says_what_is_kept_and_how_to_go_on(
    options: list[str], tmp_path: Path
) -> None:
    run, two_epochs = tmp_path / 'run', [*options, 'train_cfg.max_epochs=2']

    said = stop(run, signal.SIGTERM, at='before_train_iter 2', options=two_epochs)
    assert said.startswith('Stopped by SIGTERM. Nothing was saved yet. To begin again: mmkd train ')
    assert not said.endswith('--resume')

    said = stop(run, signal.SIGINT, at='before_train_iter 6', options=two_epochs)
    assert said.startswith(f'Stopped by Ctrl-C. Kept: {run}/epoch_1.pth. To go on: mmkd train ')
    assert f'{CONFIG}.py --work-dir {run} ' in said
    assert said.endswith('--resume')

    said = stop(run, signal.SIGINT, '--resume', at='before_train_iter 1', options=two_epochs)
    assert f'Kept: {run}/epoch_1.pth. ' in said
    assert said.count('--resume') == 1


def test_two_runs_in_one_folder(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / 'run'
    run.mkdir()
    first = start(run, options=options, config=CONFIG, kill='before_train_iter 2 pause')
    try:
        wait_for_pause(first, run)
        assert train(run, options=options, config=CONFIG) == 2
    finally:
        first.kill()
        first.join()
    assert f'another run is training in {run} (process {first.pid} on ' in output(run).read_text()

    assert train(run, options=options, config=CONFIG) == 0
