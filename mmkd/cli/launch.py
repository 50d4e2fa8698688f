"""Train or test with several processes: one for each GPU, or that many CPU processes where there is no GPU."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

import torch
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

MISSING_INPUT = 2
"""Exit code of a command that has said itself what it lacks."""
VARIABLES = '[NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=29500]'


def train(argv: Sequence[str]) -> int:
    """`mmkd dist-train CONFIG PROCESSES [options of mmkd train]`; return the exit code."""
    return launch('train', argv, ('CONFIG',))


def test(argv: Sequence[str]) -> int:
    """`mmkd dist-test CONFIG CHECKPOINT PROCESSES [options of mmkd test]`; return the exit code."""
    return launch('test', argv, ('CONFIG', 'CHECKPOINT'))


def launch(command: str, argv: Sequence[str], leading: Sequence[str]) -> int:
    """Start the processes of a command and wait for them.

    Args:
        command: ``'train'`` or ``'test'``.
        argv: What stands behind `mmkd dist-...`: ``leading``, the number of processes, options of the command.
        leading: Names of the arguments before the number of processes.

    Returns:
        The exit code of the first process that failed, or 0.
    """
    place = len(leading)
    if len(argv) <= place:
        print(
            f'usage: {VARIABLES} mmkd dist-{command} {" ".join(leading)} PROCESSES [options of mmkd {command}]',
            file=sys.stderr,
        )
        return MISSING_INPUT
    if not argv[place].isdecimal() or int(argv[place]) < 1:
        print(
            f'PROCESSES: {argv[place]!r} is no number of processes: give 1 or more, on each machine at most one per '
            'GPU',
            file=sys.stderr,
        )
        return MISSING_INPUT
    processes = int(argv[place])
    share_cores(processes)
    for name in ('multiprocessing.api', 'agent.server.api'):
        # What they report while a run ends is what the processes, or this file, say in words.
        logging.getLogger(f'torch.distributed.elastic.{name}').setLevel(logging.CRITICAL)
    arguments = [*argv[:place], '--launcher', 'pytorch', *argv[place + 1 :]]
    try:
        run.main(torchrun_arguments(command, processes, arguments))
    except ChildFailedError as error:
        return report(error, command)
    except SignalException as stopped:  # which the processes have been told of
        return 128 + stopped.sigval
    return 0


def torchrun_arguments(command: str, processes: int, arguments: Sequence[str]) -> list[str]:
    """The arguments for torchrun; other machines are described by MMDetection's variables."""
    return [
        f'--nnodes={os.environ.get("NNODES", "1")}',
        f'--node_rank={os.environ.get("NODE_RANK", "0")}',
        f'--master_addr={os.environ.get("MASTER_ADDR", "127.0.0.1")}',
        f'--master_port={os.environ.get("PORT", "29500")}',
        f'--nproc_per_node={processes}',
        '--module',
        'mmkd',
        command,
        *arguments,
    ]


def share_cores(processes: int) -> None:
    """Without a GPU, divide the cores among the processes, unless OMP_NUM_THREADS says otherwise.

    With GPUs 1 thread leaves the cores to the data loaders: torchrun's own default, of which it would warn.
    """
    cores = 0 if torch.cuda.is_available() else os.cpu_count() or 1
    threads = str(max(1, cores // processes))
    os.environ.setdefault('OMP_NUM_THREADS', threads)
    os.environ.setdefault('MKL_NUM_THREADS', os.environ['OMP_NUM_THREADS'])


def report(error: ChildFailedError, command: str) -> int:
    """Say which process failed, unless it has said all itself; return its exit code, of a signal as of shells."""
    if any(failure.exitcode == MISSING_INPUT for failure in error.failures.values()):
        return MISSING_INPUT
    rank, failure = error.get_first_failure()
    if failure.exitcode < 0:
        number = -failure.exitcode
        ended = f'was killed by {signal.Signals(number).name}'
        code = 128 + number
    else:
        ended = f'ended with exit code {failure.exitcode}: what it said is above'
        code = failure.exitcode
    print(f'{command}: process {rank} {ended}', file=sys.stderr)
    return code
