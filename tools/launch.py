"""Run a script of this folder in several processes; dist_train.sh and dist_test.sh call this.

usage: python tools/launch.py SCRIPT PROCESSES [ARGUMENTS OF THE SCRIPT]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch.distributed import run
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

    With GPUs torchrun's own default of 1 thread leaves the cores to the data loaders.
    """
    if torch.cuda.is_available():
        return
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    os.environ.setdefault('OMP_NUM_THREADS', threads)
    os.environ.setdefault('MKL_NUM_THREADS', os.environ['OMP_NUM_THREADS'])


def main(argv: list[str]) -> int:
    """Start the processes and wait for them; return their exit code."""
    if len(argv) < 2 or not argv[1].isdecimal() or int(argv[1]) < 1:
        print(__doc__, file=sys.stderr)
        return MISSING_INPUT
    script, processes = argv[0], int(argv[1])
    share_cores(processes)
    repository = str(Path(__file__).resolve().parent.parent)
    os.environ['PYTHONPATH'] = os.pathsep.join(
        filter(None, [repository, os.environ.get('PYTHONPATH')])
    )
    try:
        run.main(torchrun_arguments(script, processes, argv[2:]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode == MISSING_INPUT:
            # The script's own message is all there is to say: no traceback below it.
            return MISSING_INPUT
        raise
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
