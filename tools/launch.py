"""Run a script of this folder in several processes; dist_train.sh and dist_test.sh call this.

usage: python tools/launch.py SCRIPT PROCESSES [ARGUMENTS OF THE SCRIPT]
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import torch
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

MISSING_INPUT = 2
"""Exit code of a script that has said itself what it lacks."""


def torchrun_arguments(script: str, processes: int, arguments: list[str]) -> list[str]:
    """The arguments for torchrun; other machines are described by MMDetection's variables."""
    return [
        f'--nnodes={os.environ.get("NNODES", "1")}',
        f'--node_rank={os.environ.get("NODE_RANK", "0")}',
        f'--master_addr={os.environ.get("MASTER_ADDR", "127.0.0.1")}',
        f'--master_port={os.environ.get("PORT", "29500")}',
        f'--nproc_per_node={processes}',
        str(Path(__file__).parent / script),
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


def main(argv: list[str]) -> int:
    """Start the processes and wait for them; return their exit code."""
    if len(argv) < 2:
        print(__doc__, file=sys.stderr)
        return MISSING_INPUT
    if not argv[1].isdecimal() or int(argv[1]) < 1:
        print(
            f'PROCESSES: {argv[1]!r} is no number of processes: give 1 or more, on each machine at most one per GPU',
            file=sys.stderr,
        )
        return MISSING_INPUT
    script, processes = argv[0], int(argv[1])
    share_cores(processes)
    for name in ('multiprocessing.api', 'agent.server.api'):
        # What they report while a run ends is what the processes, or this file, say in words.
        logging.getLogger(f'torch.distributed.elastic.{name}').setLevel(logging.CRITICAL)
    repository = str(Path(__file__).resolve().parent.parent)
    os.environ['PYTHONPATH'] = os.pathsep.join(
        filter(None, [repository, os.environ.get('PYTHONPATH')])
    )
    try:
        run.main(torchrun_arguments(script, processes, argv[2:]))
    except ChildFailedError as error:
        return report(error, script)
    except SignalException as stopped:  # which the processes have been told of
        return 128 + stopped.sigval
    return 0


def report(error: ChildFailedError, script: str) -> int:
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
    print(f'{script}: process {rank} {ended}', file=sys.stderr)
    return code


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
