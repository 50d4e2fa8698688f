"""Train for thousands of iterations with every hook on, and show that memory and file handles stay flat.

    python tools/soak.py --iterations 3000

A small RetinaNet learns the embedded shapes from a teacher with random weights, 32 iterations an epoch, with data
workers that are started anew every epoch, a checkpoint every 50 iterations of which two are kept, validation every
fifth epoch, a moving average, TensorBoard, and all hooks of mmkd. Twice an epoch the process's resident memory, its
open files and its threads are noted. Their slopes, over all but the first part, must stay below a tolerance, or the
exit status is 1. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import os.path as osp
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

# Works from a clone as well, before `pip install -e .`.
sys.path.append(osp.dirname(osp.dirname(osp.abspath(__file__))))

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.datasets import make_shapes
from mmkd.utils import override_data_root, prepare_cpu

RECIPE = Path(__file__).resolve().parents[1] / 'configs' / 'shapes' / 'retinanet_ckd.py'
IMAGES, VALIDATION_IMAGES, BATCH, SIZE = 64, 8, 2, 64
MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """What the process held after an iteration."""

    iteration: int
    memory: int
    files: int
    threads: int


@dataclass(frozen=True)
class Verdict:
    """How one quantity moved.

    Attributes:
        name: What it is.
        unit: Its unit.
        first: Its median over the first tenth of what counts.
        last: Its median over the last tenth.
        per_thousand: Its slope, per 1000 iterations.
        tolerance: The slope that is allowed.
    """

    name: str
    unit: str
    first: float
    last: float
    per_thousand: float
    tolerance: float

    @property
    def flat(self) -> bool:
        return self.per_thousand <= self.tolerance


class Watch(Hook):
    """Notes what the process holds, twice an epoch."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self.every_n_train_iters(runner, IMAGES // BATCH // 2):
            gc.collect()
            self.samples.append(measure(runner.iter + 1))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--iterations', type=int, default=3000)
    parser.add_argument('--work-dir', help='keeps the run; default a folder that is removed')
    parser.add_argument('--out', help='write the samples and slopes to this JSON file')
    parser.add_argument(
        '--warm-up', type=float, default=0.4, help='part of the run that does not count'
    )
    parser.add_argument(
        '--memory-tolerance', type=float, default=4.0, help='MiB per 1000 iterations'
    )
    parser.add_argument('--files-tolerance', type=float, default=0.5, help='per 1000 iterations')
    args = parser.parse_args(argv)
    if args.iterations < 5 * IMAGES // BATCH:
        parser.error(f'--iterations must be at least {5 * IMAGES // BATCH}: five epochs')
    return args


def main(argv: list[str] | None = None) -> int:
    """Train, print the table; return 0 if all is flat, else 1."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        work_dir = Path(args.work_dir or folder)
        samples = soak(soak_config(args.iterations, work_dir))
    verdicts = judge(samples, args.warm_up, args.memory_tolerance, args.files_tolerance)
    print(table(verdicts))
    if args.out is not None:
        content = dict(samples=list(map(asdict, samples)), slopes=list(map(asdict, verdicts)))
        Path(args.out).write_text(json.dumps(content, indent=1), encoding='utf-8')
    rising = [verdict.name for verdict in verdicts if not verdict.flat]
    if rising:
        print(f'not flat: {", ".join(rising)}')
        return 1
    print('all flat')
    return 0


def soak_config(iterations: int, work_dir: Path) -> Config:
    """The recipe, made small, with every hook; writes the images."""
    data = make_shapes(work_dir / 'data', train=IMAGES, val=VALIDATION_IMAGES, size=SIZE, seed=0)
    cfg = Config.fromfile(RECIPE)
    override_data_root(cfg, str(data))
    epochs = -(-iterations * BATCH // IMAGES)
    for part in (cfg.train_dataloader, cfg.val_dataloader):
        part.update(batch_size=BATCH, num_workers=1, persistent_workers=False)
        for step in part.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (SIZE, SIZE)
    cfg.merge_from_dict(
        {
            'work_dir': str(work_dir / 'run'),
            'experiment_name': f'soak_{os.getpid()}_{iterations}',
            'visualizer.name': f'soak_{os.getpid()}_{iterations}',
            'visualizer.vis_backends': [
                dict(type='LocalVisBackend'),
                dict(type='TensorboardVisBackend'),
            ],
            'model.teacher.checkpoint': 'random_init',
            'train_cfg.max_epochs': epochs,
            'train_cfg.val_interval': 5,
            'default_hooks.logger.interval': 10,
            'default_hooks.checkpoint': dict(
                type='mmkd.WholeCheckpointHook', by_epoch=False, interval=50, max_keep_ckpts=2
            ),
            'custom_hooks': [
                dict(type='EMAHook', momentum=0.01),
                dict(type='mmkd.TeacherCheckHook'),
                dict(type='mmkd.DistillMonitorHook', interval=10),
                dict(type='mmkd.DistillVisualizationHook', max_images=2, score_thr=0.0),
                dict(type='mmkd.FiniteLossHook'),
                dict(type='mmkd.ResumeStateHook'),
                dict(type='mmkd.ExportStudentHook'),
            ],
        }
    )
    return cfg


def soak(cfg: Config, hooks: Sequence[Hook] = ()) -> list[Sample]:
    """Train, with ``hooks`` beside the config's; returns two samples per epoch."""
    prepare_cpu(cfg)
    runner = Runner.from_cfg(cfg)
    watch = Watch()
    for hook in (*hooks, watch):
        runner.register_hook(hook)
    runner.train()
    return watch.samples


def measure(iteration: int) -> Sample:
    """What this process holds now."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return Sample(
        iteration=iteration,
        memory=pages * os.sysconf('SC_PAGE_SIZE'),
        files=len(os.listdir('/proc/self/fd')),
        threads=threading.active_count(),
    )


def judge(
    samples: Sequence[Sample], warm_up: float, memory_tolerance: float, files_tolerance: float
) -> list[Verdict]:
    """The slopes of all quantities over what comes after the warm-up.

    Args:
        samples: In the order of their iterations.
        warm_up: Part of the samples, from the beginning, that does not count.
        memory_tolerance: MiB per 1000 iterations.
        files_tolerance: Open files, and threads, per 1000 iterations.
    """
    counted = samples[round(len(samples) * warm_up) :]
    if len(counted) < 3:
        raise ValueError(f'{len(counted)} samples after the warm-up are no trend: train longer')
    at = [sample.iteration for sample in counted]
    quantities = {
        'resident memory': ('MiB', [s.memory / MIB for s in counted], memory_tolerance),
        'open files': ('', [float(s.files) for s in counted], files_tolerance),
        'threads': ('', [float(s.threads) for s in counted], files_tolerance),
    }
    tenth = max(1, len(counted) // 10)
    return [
        Verdict(
            name,
            unit,
            median(values[:tenth]),
            median(values[-tenth:]),
            1000 * slope(at, values),
            tolerance,
        )
        for name, (unit, values, tolerance) in quantities.items()
    ]


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """The median of the slopes between all pairs of points (Theil and Sen): single peaks do not move it."""
    return median(
        (values[j] - values[i]) / (at[j] - at[i]) for i, j in combinations(range(len(at)), 2)
    )


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a table."""
    lines = [
        '| | after the warm-up | at the end | per 1000 iterations | allowed |',
        '|---|---:|---:|---:|---:|',
    ]
    lines += [
        f'| {v.name} | {v.first:.1f} {v.unit} | {v.last:.1f} {v.unit} | {v.per_thousand:+.2f} {v.unit} '
        f'| {v.tolerance:g} |'
        for v in verdicts
    ]
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
