"""dist_train.sh and dist_test.sh with two CPU processes, and the launcher below them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from training_runs import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSIFIER = REPOSITORY / 'tests' / 'data' / 'tiny_classifier.py'

pytestmark = pytest.mark.usefixtures('clean_environment')


def begin(script: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start a script of tools/ as on a machine without a GPU."""
    environment = dict(
        os.environ,
        CUDA_VISIBLE_DEVICES='',
        PORT=free_port(),
        PYTHON=sys.executable,
        OMP_NUM_THREADS='1',
    )
    return subprocess.Popen(
        ['bash', str(REPOSITORY / 'tools' / script), *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    with begin(script, *arguments, cwd=cwd) as process:
        output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def records(run: Path) -> list[dict[str, float]]:
    (log,) = run.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_two_cpu_processes_distil_until_they_are_stopped_and_test(
    tiny_imagenet: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / 'recipe.py'
    recipe.write_text(
        f"""_base_ = {str(CLASSIFIER)!r}
custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{{{_base_.model}}}},
    teacher=dict(config={str(CLASSIFIER)!r}, checkpoint='random_init'),
    losses=dict(ckd=dict(type='mmkd.CKDLoss'), aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill')),
)
"""
    )
    options = ['--work-dir', 'run', '--cfg-options', f'data_root={tiny_imagenet}']
    long = [*options, 'train_cfg.max_epochs=1000']
    process = begin('dist_train.sh', str(recipe), '2', *long, cwd=tmp_path)
    while not (tmp_path / 'run' / 'epoch_2.pth').exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert 'through gloo instead of nccl' in said + errors
    assert 'Traceback' not in errors
    assert 'elastic' not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith('Stopped by Ctrl-C. Kept: ')]
    assert f'mmkd dist-train {recipe} 2 --work-dir run ' in line
    assert line.endswith(' --resume')
    # 8 images in batches of 2, shared by 2 processes.
    first, second, validation, *_ = records(tmp_path / 'run')
    assert (first['iter'], second['iter']) == (1, 2)
    assert first['loss_ckd'] > 0

    checkpoint = tmp_path / 'run' / 'epoch_1.pth'
    options[1] = 'test'
    tested = run('dist_test.sh', str(recipe), str(checkpoint), '2', *options, cwd=tmp_path)

    assert tested.returncode == 0, tested.stderr
    (metrics,) = (tmp_path / 'test').glob('*/*.json')
    assert json.loads(metrics.read_text())['accuracy/top1'] == validation['accuracy/top1']


def test_after_a_process_that_said_what_it_lacks_nothing_is_added(
    launch: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    lacking = tmp_path / 'mmkd'
    lacking.mkdir()
    (lacking / '__main__.py').write_text(
        f"""import os, sys, time
if os.environ['RANK'] == '0':
    print('lacks', file=sys.stderr)
    sys.exit({launch.MISSING_INPUT})
time.sleep(60)
"""
    )
    (lacking / '__init__.py').touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.setenv('PORT', free_port())
    assert launch.train(['config.py', '2']) == launch.MISSING_INPUT
    errors = capfd.readouterr().err
    assert errors.count('lacks') == 1
    assert 'Traceback' not in errors
    assert 'elastic' not in errors


def failure(rank: int, code: int, folder: Path) -> ProcessFailure:
    return ProcessFailure(rank, 4711, code, str(folder / 'none'))


def test_a_failed_process_is_named_and_its_exit_code_returned(
    launch: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for codes, expected, said in (
        ({0: 1, 1: -15}, 1, 'process 0 ended with exit code 1'),
        ({1: -9}, 137, 'process 1 was killed by SIGKILL'),
        ({0: 1, 1: launch.MISSING_INPUT}, launch.MISSING_INPUT, ''),
    ):
        failures = {rank: failure(rank, code, tmp_path) for rank, code in codes.items()}
        assert launch.report(ChildFailedError('train', failures), 'train') == expected
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ('command', 'arguments'), [('train', ['config.py']), ('test', ['config.py', '2'])]
)
def test_too_few_arguments_show_the_usage(
    launch: ModuleType, command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert getattr(launch, command)(arguments) == 2
    assert capsys.readouterr().err.startswith('usage:')


@pytest.mark.parametrize(
    ('script', 'leading'),
    [
        ('slurm_train.sh', ['train', 'c.py', '--work-dir=w']),
        ('slurm_test.sh', ['test', 'c.py', 'w']),
    ],
)
def test_the_slurm_scripts_have_mmdetections_arguments(
    script: str, leading: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    for name, value in (
        ('PATH', f'{tmp_path}:{os.environ["PATH"]}'), ('GPUS', '16'), ('SRUN_ARGS', '--qos=high --exclusive'),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    submitted = run(script, 'gpus', 'my job', 'c.py', 'w', '--cfg-options', 'a=b c', cwd=tmp_path)
    options = ['--partition=gpus', '--job-name=my job', '--gres=gpu:8', '--ntasks=16']
    options += ['--ntasks-per-node=8', '--cpus-per-task=5', '--kill-on-bad-exit=1']
    options += ['--qos=high', '--exclusive', sys.executable, '-u', '-m', 'mmkd', *leading]
    options += ['--launcher=slurm', '--cfg-options', 'a=b c']
    assert submitted.stdout.splitlines() == options
    assert run(script, 'gpus', 'my job', cwd=tmp_path).returncode == 2


@pytest.fixture
def launch() -> ModuleType:
    return import_module('mmkd.cli.launch')


def test_other_machines_are_described_by_variables(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ('NNODES', '4'), ('NODE_RANK', '3'), ('MASTER_ADDR', 'host0'), ('PORT', '1234'),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)

    assert launch.torchrun_arguments('train', 8, ['config.py', '--amp']) == [
        '--nnodes=4',
        '--node_rank=3',
        '--master_addr=host0',
        '--master_port=1234',
        '--nproc_per_node=8',
        '--module',
        'mmkd',
        'train',
        'config.py',
        '--amp',
    ]


@pytest.mark.parametrize(('cores', 'processes', 'threads'), [(8, 2, '4'), (2, 4, '1')])
def test_processes_share_the_cores(
    launch: ModuleType, cores: int, processes: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(os, 'cpu_count', lambda: cores)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.delenv('MKL_NUM_THREADS', raising=False)

    launch.share_cores(processes)

    assert os.environ['OMP_NUM_THREADS'] == threads
    assert os.environ['MKL_NUM_THREADS'] == threads


def test_a_number_of_threads_that_is_given_is_kept(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.torch.cuda, 'is_available', lambda: False)
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    launch.share_cores(64)
    assert os.environ['OMP_NUM_THREADS'] == '3'


@pytest.mark.parametrize('processes', ['two', '0', '-1'])
def test_a_number_of_processes_that_is_none_is_named(
    launch: ModuleType, processes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.train(['config.py', processes]) == 2
    assert f'PROCESSES: {processes!r} is no number' in capsys.readouterr().err
