"""A whole run on two machines, here two launchers of dist_train.sh on one, against a run of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / 'tests' / 'data' / 'tiny_fcos_ckd.py'


def trained(folder: Path, tiny_coco: Path, nodes: int) -> dict[str, Any]:
    """The last checkpoint of a run with one process on each node, which share batches of four images."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', PORT=str(port))
    environment |= dict(PYTHON=sys.executable, NNODES=str(nodes), MASTER_ADDR='127.0.0.1')
    command = ['bash', str(REPOSITORY / 'tools' / 'dist_train.sh'), str(CONFIG), '1']
    command += ['--work-dir', str(folder), '--cfg-options', f'data_root={tiny_coco}']
    command += [f'train_dataloader.batch_size={4 // nodes}']
    launchers = [
        subprocess.Popen(
            command,
            env=dict(environment, NODE_RANK=str(node)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(nodes)
    ]
    try:
        outputs = [launcher.communicate(timeout=900)[0] for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.terminate()  # torchrun ends its processes
    assert not any(launcher.returncode for launcher in launchers), '\n'.join(outputs)
    return torch.load(folder / 'epoch_2.pth', weights_only=False)


@pytest.fixture(scope='module')
def runs(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """Number of nodes to the last checkpoint."""
    folder = tmp_path_factory.mktemp('nodes')
    return {nodes: trained(folder / str(nodes), tiny_coco, nodes) for nodes in (1, 2)}


@pytest.mark.parametrize('key', ['state_dict', 'ema_state_dict'])
def test_two_nodes_end_with_the_weights_of_one(runs: dict[int, dict[str, Any]], key: str) -> None:
    """Accumulated gradients, EMA, ``find_unused_parameters=False`` and a loss that joins later."""
    expected, found = runs[1][key], runs[2][key]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name].double() - value.double()).norm()
        assert error <= 1e-4 * value.double().norm() + 1e-8, name


def test_the_nodes_shared_the_batches(runs: dict[int, dict[str, Any]]) -> None:
    for checkpoint in runs.values():
        assert checkpoint['message_hub']['runtime_info']['iter'] == 3, 'two epochs of two batches'
    averaged = runs[2]['ema_state_dict']
    serial = 'distill.aekt.serial_layer.offset'
    assert runs[2]['state_dict'][serial].any(), 'AEKT has trained'
    assert not torch.equal(averaged[f'module.{serial}'], runs[2]['state_dict'][serial])
