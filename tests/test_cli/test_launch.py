"""dist_train.sh and dist_test.sh with two CPU processes, and the launcher below them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / 'tests' / 'data' / 'tiny_retinanet.py'
CLASSIFIER = REPOSITORY / 'tests' / 'data' / 'tiny_classifier.py'

pytestmark = pytest.mark.usefixtures('clean_environment')


def begin(script: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start a script of tools/ as on a machine without a GPU."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = dict(
        os.environ,
        CUDA_VISIBLE_DEVICES='',
        PORT=str(port),
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


def test_two_cpu_processes_train_and_test(tiny_coco: Path, tmp_path: Path) -> None:
    options = ('--work-dir', 'run', '--cfg-options', f'data_root={tiny_coco}')

    trained = run('dist_train.sh', str(CONFIG), '2', *options, cwd=tmp_path)

    assert trained.returncode == 0, trained.stderr
    assert 'through gloo instead of nccl' in trained.stdout + trained.stderr
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    *steps, validation = [json.loads(line) for line in log.read_text().splitlines()]
    # 8 images in batches of 2, shared by 2 processes.
    assert [record['iter'] for record in steps] == [1, 2]

    checkpoint = tmp_path / 'run' / 'epoch_1.pth'
    tested = run('dist_test.sh', str(CONFIG), str(checkpoint), '2', *options, cwd=tmp_path)

    assert tested.returncode == 0, tested.stderr
    (metrics,) = (tmp_path / 'run').glob('*/*.json')
    assert json.loads(metrics.read_text())['coco/bbox_mAP'] == validation['coco/bbox_mAP']


def test_two_cpu_processes_distil_a_classifier(tiny_imagenet: Path, tmp_path: Path) -> None:
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
    options = ('--work-dir', 'run', '--cfg-options', f'data_root={tiny_imagenet}')

    trained = run('dist_train.sh', str(recipe), '2', *options, cwd=tmp_path)

    assert trained.returncode == 0, trained.stderr
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    *steps, validation = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(record['loss_ckd'] > 0 for record in steps)
    assert 0 <= validation['accuracy/top1'] <= 100


def test_what_is_missing_is_said_once_and_without_a_traceback(tmp_path: Path) -> None:
    failed = run('dist_train.sh', str(CONFIG), '2', cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.count('Not started: 1 problem.') == 1
    assert 'Traceback' not in failed.stderr
    assert 'elastic' not in failed.stderr


def test_a_stopped_run_is_one_line_with_the_command_that_goes_on(
    tiny_coco: Path, tmp_path: Path
) -> None:
    options = ['--work-dir', 'run', '--cfg-options', f'data_root={tiny_coco}']
    long = [*options, 'train_cfg.max_epochs=1000', 'val_dataloader=None', 'val_cfg=None']
    process = begin('dist_train.sh', str(CONFIG), '2', *long, 'val_evaluator=None', cwd=tmp_path)
    while not (tmp_path / 'run' / 'epoch_1.pth').exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert 'Traceback' not in errors
    assert 'elastic' not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith('Stopped by Ctrl-C. Kept: ')]
    assert f'mmkd dist-train {CONFIG} 2 --work-dir run ' in line
    assert line.endswith(' --resume')


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
    ('script', 'arguments'),
    [('dist_train.sh', ['config.py']), ('dist_test.sh', ['config.py', '2'])],
)
def test_too_few_arguments_show_the_usage(
    script: str, arguments: list[str], tmp_path: Path
) -> None:
    failed = run(script, *arguments, cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.startswith('usage:')


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
