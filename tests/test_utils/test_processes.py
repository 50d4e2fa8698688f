from __future__ import annotations

import datetime
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as torch_dist
from mmengine.config import Config

from mmkd.utils import close_process_group, local_rank, prepare_cpu, processes


@pytest.fixture
def opened_groups(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record the process groups that would be opened, on a machine without a GPU."""
    groups: list[dict[str, Any]] = []
    monkeypatch.setattr(processes, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(
        processes.torch_dist, 'init_process_group', lambda **group: groups.append(group)
    )
    monkeypatch.setattr(processes.torch_dist, 'get_rank', lambda: 0)
    return groups


def config(**settings: Any) -> Config:
    return Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl')), **settings))


@pytest.mark.parametrize(
    ('launcher', 'variable'),
    [('pytorch', 'LOCAL_RANK'), ('slurm', 'SLURM_LOCALID'), ('mpi', 'OMPI_COMM_WORLD_LOCAL_RANK')],
)
def test_each_launcher_numbers_its_processes(
    launcher: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, '3')
    assert local_rank(launcher) == 3
    assert local_rank('none') == 0


def test_processes_without_a_gpu_use_gloo_and_no_device(opened_groups: list) -> None:
    cfg = config(find_unused_parameters=True)

    prepare_cpu(cfg)

    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=True,
        device_ids=None,
    )
    assert opened_groups == [dict(backend='gloo', timeout=None)]


def test_settings_of_the_config_are_kept(opened_groups: list) -> None:
    cfg = config(model_wrapper_cfg=dict(broadcast_buffers=True, static_graph=True))
    cfg.env_cfg.dist_cfg.timeout = 90

    prepare_cpu(cfg)

    assert cfg.model_wrapper_cfg.broadcast_buffers is True
    assert cfg.model_wrapper_cfg.static_graph is True
    assert opened_groups[0]['timeout'] == datetime.timedelta(seconds=90)


def test_another_wrapper_is_left_alone(opened_groups: list) -> None:
    wrapper = dict(type='MMFullyShardedDataParallel')
    cfg = config(model_wrapper_cfg=wrapper)
    prepare_cpu(cfg)
    assert cfg.model_wrapper_cfg == wrapper


def test_gpus_and_single_processes_are_left_alone(
    opened_groups: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = config()
    single.launcher = 'none'
    on_gpus = config()
    before = single.to_dict(), on_gpus.to_dict()

    prepare_cpu(single)
    monkeypatch.setattr(processes, 'get_device', lambda: 'cuda')
    prepare_cpu(on_gpus)

    assert (single.to_dict(), on_gpus.to_dict()) == before
    assert opened_groups == []


def test_a_process_group_is_closed_if_there_is_one(tmp_path: Path) -> None:
    close_process_group()
    torch_dist.init_process_group(
        'gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1
    )
    close_process_group()
    assert not torch_dist.is_initialized()


def say_and_leave() -> None:
    threading.Thread(target=time.sleep, args=(60,)).start()
    print('done')
    processes.leave(3)


def test_a_process_leaves_with_its_exit_code_and_all_it_has_said(
    capfd: pytest.CaptureFixture[str],
) -> None:
    process = multiprocessing.get_context('fork').Process(target=say_and_leave)
    process.start()
    process.join(50)
    assert process.exitcode == 3
    assert capfd.readouterr().out == 'done\n'
