"""Real runs of `mmkd train` and other commands in processes of their own, started in a fraction of a second each.

A fork server imports MMDetection once; each run is forked from it and can be killed like any process.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 120

_server = multiprocessing.get_context('forkserver')
_server.set_forkserver_preload(['training_runs', 'mmdet.apis', 'mmkd.cli.train', 'mmkd.cli.test'])


def start(
    work_dir: Path,
    *arguments: str,
    options: Sequence[str],
    config: str,
    kill: str = '',
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Start `mmkd train` with a config of ``tests/data``.

    Args:
        work_dir: The run's folder; what it prints goes to ``output.txt`` beside it.
        *arguments: Options such as ``--resume``.
        options: Settings of the config, ``key=value``.
        config: The config's name without ``.py``.
        environment: Variables of the process, such as its rank.
        kill: ``'HOOK_POINT N'``: SIGKILL itself when that method of its hooks is called for the Nth time; with
            ``worker`` after it, kill one of its dataloader's workers; with ``pause``, wait for ever.

    Returns:
        The process.
    """
    argv = train_arguments(work_dir, *arguments, options=options, config=config)
    return begin('train', argv, output(work_dir), kill, environment)


def in_two_processes(
    command: str, argv: Sequence[str], log: Path, kill_second: str = ''
) -> list[int]:
    """Run a command as torchrun starts it, in two CPU processes; their exit codes.

    Args:
        command: The command of `mmkd`.
        argv: Its arguments; ``--launcher pytorch`` must be among them.
        log: Where both print to; the second to a name with ``.1`` behind.
        kill_second: ``kill`` of :func:`start`, for the second process.
    """
    port = free_port()
    shared = dict(WORLD_SIZE='2', LOCAL_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    pair = [
        begin(command, argv, place, kill, dict(shared, RANK=rank, LOCAL_RANK=rank))
        for rank, place, kill in (
            ('0', log, ''),
            ('1', log.with_name(f'{log.name}.1'), kill_second),
        )
    ]
    return [finish(process) for process in pair]


def free_port() -> str:
    """The number of a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def begin(
    command: str,
    argv: Sequence[str],
    log: Path,
    kill: str = '',
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Any:
    """Start a command of `mmkd` in a folder; what it prints goes to ``log``. See :func:`start`."""
    where = str(folder or Path.cwd())
    process = _server.Process(
        target=_run, args=(command, list(argv), str(log), kill, dict(environment or {}), where)
    )
    process.start()
    return process


def train_arguments(
    work_dir: Path, *arguments: str, options: Sequence[str], config: str
) -> list[str]:
    """The arguments of `mmkd train`, see :func:`start`."""
    file = REPOSITORY / 'tests' / 'data' / f'{config}.py'
    return [str(file), *arguments, '--work-dir', str(work_dir), '--cfg-options', *options]


def finish(process: Any) -> int:
    """Wait for a run; its exit code, or -9 after SIGKILL."""
    process.join(TIMEOUT_SECONDS)
    assert process.exitcode is not None, 'the run hangs'
    return process.exitcode


def train(work_dir: Path, *arguments: str, **settings: Any) -> int:
    """Start a run and wait for its exit code."""
    return finish(start(work_dir, *arguments, **settings))


def output(work_dir: Path) -> Path:
    """What the last run with this folder printed."""
    return work_dir.with_name(work_dir.name + '.output.txt')


def states(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors that training goes on with: weights, their moving average, the optimizer's momentum."""
    content = torch.load(checkpoint, weights_only=False)
    tensors = dict(content['state_dict'])
    tensors |= {f'ema.{name}': value for name, value in content.get('ema_state_dict', {}).items()}
    for index, slots in content['optimizer']['state'].items():
        tensors |= {
            f'optimizer.{index}.{name}': value
            for name, value in slots.items()
            if isinstance(value, torch.Tensor)
        }
    return tensors


def differing(first: Path, second: Path) -> list[str]:
    """Names of the tensors of two checkpoints that are not equal bit for bit."""
    ours, theirs = states(first), states(second)
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def _run(
    command: str, argv: list[str], log: str, kill: str, environment: dict[str, str], folder: str
) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    multiprocessing.set_start_method('fork', force=True)  # as in a run that no server started
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, 'w', buffering=1)
    sys.stderr = os.fdopen(2, 'w', buffering=1)
    torch.set_num_threads(1)
    import mmengine.runner.runner
    import yapf.yapflib.yapf_api

    mmengine.runner.runner.collect_env = (
        dict  # which would start compilers to ask for their versions
    )
    yapf.yapflib.yapf_api.FormatCode = lambda text, **_: (text, True)  # slow
    module = importlib.import_module(f'mmkd.cli.{command}')
    if kill:
        _act_at(module, *kill.split())
    sys.exit(module.main(argv))


def _act_at(tool: Any, point: str, count: str, victim: str = 'self') -> None:
    from mmengine.hooks import Hook

    left = int(count)

    def call(self: Hook, runner: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0 and victim == 'pause':
            Path(runner.work_dir, 'paused').touch()
            signal.pause()
        elif left == 0:
            children = multiprocessing.active_children()
            os.kill(os.getpid() if victim == 'self' else children[0].pid, signal.SIGKILL)

    build_runner = tool.build_runner

    def build_and_watch(cfg: Any) -> Any:
        runner = build_runner(cfg)
        runner.register_hook(type('Act', (Hook,), {point: call, 'priority': 'LOWEST'})())
        return runner

    tool.build_runner = build_and_watch
