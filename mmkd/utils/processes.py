"""The processes of a run: which one this is, and how to run several without a GPU."""

from __future__ import annotations

import datetime
import logging
import multiprocessing
import os
import signal
import sys
from typing import NoReturn

import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

_NUMBERS = {
    'pytorch': ('LOCAL_RANK', 'RANK'),
    'slurm': ('SLURM_LOCALID', 'SLURM_PROCID'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_RANK'),
}
"""Where each launcher says the number of a process on its machine, and among those of all."""


def local_rank(launcher: str) -> int:
    """The number, from 0, of this process on its machine.

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
    """
    return int(os.environ.get(_NUMBERS[launcher][0], 0)) if launcher in _NUMBERS else 0


def global_rank(launcher: str) -> int:
    """The number, from 0, of this process among those of all machines; see :func:`local_rank`."""
    return int(os.environ.get(_NUMBERS[launcher][1], 0)) if launcher in _NUMBERS else 0


def prepare_cpu(cfg: Config) -> None:
    """Let ``cfg`` run as several processes where there is no GPU; elsewhere do nothing.

    MMEngine's own start-up calls ``torch.cuda.set_device`` and gives
    ``DistributedDataParallel`` a device id, both of which fail on a CPU. Here the process group is
    opened with gloo beforehand, which MMEngine then uses, and the model wrapper gets no device id.

    Args:
        cfg: the config about to be run. ``env_cfg`` and ``model_wrapper_cfg`` are changed in place.
    """
    if get_device() != 'cpu' or cfg.get('launcher', 'none') == 'none':
        return
    dist_cfg = cfg.setdefault('env_cfg', {}).setdefault('dist_cfg', {})
    wanted_backend = dist_cfg.get('backend', 'nccl')
    dist_cfg['backend'] = 'gloo'

    wrapper_cfg = cfg.get('model_wrapper_cfg') or {}
    if wrapper_cfg.get('type', 'MMDistributedDataParallel') == 'MMDistributedDataParallel':
        cfg.model_wrapper_cfg = dict(
            dict(
                type='MMDistributedDataParallel',
                broadcast_buffers=False,
                find_unused_parameters=cfg.get('find_unused_parameters', False),
            ),
            **dict(wrapper_cfg, device_ids=None),
        )

    if not torch_dist.is_initialized():
        timeout = dist_cfg.get('timeout')
        torch_dist.init_process_group(
            backend='gloo',
            timeout=None if timeout is None else datetime.timedelta(seconds=timeout),
        )
    if wanted_backend != 'gloo' and torch_dist.get_rank() == 0:
        print_log(
            f'No GPU found: the processes talk through gloo instead of {wanted_backend}.',
            logger='current',
            level=logging.WARNING,
        )


def close_process_group() -> None:
    """Leave the process group at the end of a run, if there is one."""
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()


def leave(exit_code: int) -> NoReturn:
    """End this process, one of several, at once with an exit code.

    Threads of gloo, which a model may hold on to after the group is closed, abort a Python that exits now and then, and
    NCCL's can wait for processes that are gone.

    Args:
        exit_code: What the command returns.
    """
    # The dataloader's handler would call the next lines a fault.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
