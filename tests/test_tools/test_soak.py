"""A short soak is flat and a leak in it is not; slopes against lines whose slope is known."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mmengine.hooks import Hook

MIB = 2**20


@pytest.fixture(scope='module')
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool('soak')


def line(tool: ModuleType, **per_iteration: float) -> list[Any]:
    """Samples of 1000 iterations that begin with a steep warm-up and have one peak."""
    samples = []
    for iteration in range(0, 1000, 20):
        values = {'memory': 500 * MIB, 'files': 40, 'threads': 3}
        for name, slope in per_iteration.items():
            values[name] += round(slope * iteration)
        if iteration < 200:
            values['memory'] -= 300 * MIB
        if iteration == 600:
            values['memory'] += 200 * MIB
        samples.append(tool.Sample(iteration=iteration, **values))
    return samples


@pytest.mark.parametrize(
    ('per_iteration', 'rising'),
    [
        ({}, set()),
        (dict(memory=-1.0 * MIB), set()),
        (dict(memory=0.003 * MIB), set()),
        (dict(memory=0.006 * MIB), {'resident memory'}),
        (dict(files=0.05), {'open files'}),
        (dict(threads=0.05, memory=1.0 * MIB), {'threads', 'resident memory'}),
    ],
)
def test_what_rises_is_told_from_what_does_not(
    tool: ModuleType, per_iteration: dict[str, float], rising: set[str]
) -> None:
    verdicts = tool.judge(line(tool, **per_iteration), 0.4, 4.0, 0.5)
    assert {verdict.name for verdict in verdicts if not verdict.flat} == rising
    memory = verdicts[0]
    expected = per_iteration.get('memory', 0) / MIB * 1000
    assert memory.per_thousand == pytest.approx(expected, abs=0.05)
    assert f'{memory.per_thousand:+.2f} MiB' in tool.table(verdicts)


def test_too_short_a_run_shows_no_trend(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match='2 samples after the warm-up are no trend'):
        tool.judge(line(tool)[:4], 0.5, 4.0, 0.5)


@pytest.mark.usefixtures('clean_environment')
def test_a_short_soak_with_every_hook_is_flat(tool: ModuleType, tmp_path: Path) -> None:
    """Shorter than the warm-up of the allocator: memory may still rise a little, a step's graph may not stay."""
    out = tmp_path / 'soak.json'
    arguments = ['--iterations', '160', '--work-dir', str(tmp_path), '--out', str(out)]
    assert tool.main([*arguments, '--memory-tolerance', '200', '--files-tolerance', '20']) == 0
    content = json.loads(out.read_text())
    assert [sample['iteration'] for sample in content['samples']] == list(range(16, 161, 16))
    assert content['samples'][0]['memory'] > 100 * MIB
    run = tmp_path / 'run'
    assert sorted(path.name for path in run.glob('*.pth')) == ['iter_150.pth', 'iter_160.pth']
    assert list(run.glob('exported/*.pth'))
    assert list(run.glob('*/vis_data/vis_image/distill_val_0_160.png'))
    (log,) = run.glob('*/*.log')
    text = log.read_text()
    assert 'teacher check: score of the teacher on the validation set is 0' in text
    assert 'distill/ckd/grad_share' in text


class Leak(Hook):
    """Keeps 2 MiB and an open file of every iteration.

    Of pages of their own: what earlier tests of the process have freed would hold a list of byte strings.
    """

    def __init__(self) -> None:
        self.memory: list[mmap.mmap] = []
        self.files: list[int] = []

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.memory.append(mmap.mmap(-1, 2 * MIB))
        self.memory[-1].write(os.urandom(MIB) * 2)
        self.files.append(os.open(os.devnull, os.O_RDONLY))


@pytest.fixture
def leak() -> Iterator[Leak]:
    leaking = Leak()
    yield leaking
    for descriptor in leaking.files:
        os.close(descriptor)


@pytest.mark.usefixtures('clean_environment')
def test_a_leak_in_a_real_run_is_found(tool: ModuleType, leak: Leak, tmp_path: Path) -> None:
    cfg = tool.soak_config(64, tmp_path)
    cfg.custom_hooks = []
    samples = tool.soak(cfg, hooks=[leak])
    memory, files, threads = tool.judge(samples, 0.2, 200, 20)
    assert not memory.flat
    assert memory.per_thousand == pytest.approx(2000, rel=0.5)
    assert files.per_thousand == pytest.approx(1000, rel=0.1)
    assert threads.flat
