"""Draw the weight of every distillation loss of a recipe, and the learning rate, over the whole run.

    python tools/draw_schedules.py configs/shapes/retinanet_ckd.py --out schedules.png

No model is built and no image is read. How many iterations an epoch has comes from the data set; where
that is not on this machine, from --iterations-per-epoch.
"""

from __future__ import annotations

import argparse
import os.path as osp
import sys
from collections.abc import Mapping
from pathlib import Path

# Works from a clone as well, before `pip install -e .`.
sys.path.append(osp.dirname(osp.dirname(osp.abspath(__file__))))

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from mmengine.runner import Runner

from mmkd.losses import DistillLoss, GradientShare
from mmkd.registry import LOSSES, build
from mmkd.structures import Progress
from mmkd.utils import (
    PreflightError,
    add_common_arguments,
    load_config,
    quiet_packages,
    report_missing,
)

POINTS = 2000


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='the recipe')
    parser.add_argument('--out', default='schedules.png', help='the PNG file to write')
    parser.add_argument(
        '--iterations-per-epoch', type=int, help='if the data set is not on this machine'
    )
    add_common_arguments(parser)
    args = parser.parse_args(argv)
    args.work_dir = None
    if args.iterations_per_epoch is not None and args.iterations_per_epoch < 1:
        parser.error('--iterations-per-epoch must be at least 1')
    return args


def main(argv: list[str] | None = None) -> int:
    """Draw; return the exit code: 0, or 2 if something is missing."""
    args = parse_args(argv)
    try:
        cfg = load_config(args)
        quiet_packages(cfg.get('default_scope'))
        losses = build_losses(cfg)
        length = run_length(cfg, args.iterations_per_epoch)
    except PreflightError as error:
        return report_missing(error, args.launcher)
    weights = follow_weights(losses, length)
    rates = follow_learning_rate(cfg, length)
    try:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        draw(args.out, weights, rates, length, over_from(losses, length))
    except (OSError, ValueError) as error:  # a ValueError: an ending that matplotlib does not know
        return report_missing(PreflightError([f'--out: {error}']), args.launcher)
    print(f'wrote {args.out}')
    return 0


def build_losses(cfg: Config) -> dict[str, DistillLoss]:
    """The distillation losses of a recipe by name, as the Distiller builds them."""
    configs = cfg.model.get('losses')
    if not configs:
        raise PreflightError(
            ['config: model.losses is empty or not there: only a recipe with a teacher has weights']
        )
    try:
        return {
            name: build(LOSSES, config, where=f'model.losses.{name}')
            for name, config in configs.items()
        }
    except (TypeError, ValueError) as error:
        raise PreflightError([str(error)]) from error


def run_length(cfg: Config, iterations_per_epoch: int | None) -> Progress:
    """The end of the run."""
    max_iterations = cfg.train_cfg.get('max_iters')
    if max_iterations is not None:  # an IterBasedTrainLoop counts one epoch
        return Progress(max_iterations, 1.0, max_iterations, 1)
    epochs = cfg.train_cfg.max_epochs
    if iterations_per_epoch is None:
        try:
            with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
                loader = Runner.build_dataloader(
                    {**cfg.train_dataloader, 'num_workers': 0, 'persistent_workers': False}
                )
        except FileNotFoundError as error:
            raise PreflightError(
                [
                    f'train_dataloader: {error}: give --iterations-per-epoch, or data_root in --cfg-options'
                ]
            ) from error
        iterations_per_epoch = len(loader)
    return Progress(
        epochs * iterations_per_epoch, float(epochs), epochs * iterations_per_epoch, epochs
    )


def points(length: Progress) -> list[Progress]:
    """Points of training, in order: every iteration, or as many as a picture shows."""
    assert length.max_iterations is not None
    step = max(1, length.max_iterations // POINTS)
    return [at(length, iteration) for iteration in range(0, length.max_iterations, step)]


def at(length: Progress, iteration: int) -> Progress:
    epoch = iteration * length.epoch / length.iteration
    return Progress(iteration, epoch, length.max_iterations, length.max_epochs)


def follow_weights(losses: dict[str, DistillLoss], length: Progress) -> dict[str, list[float]]:
    """Weight of every loss at :func:`points`."""
    return {
        name + ' (share of the gradient)' * isinstance(loss.schedule, GradientShare): [
            loss.weight(progress) for progress in points(length)
        ]
        for name, loss in losses.items()
    }


def over_from(losses: dict[str, DistillLoss], length: Progress) -> int | None:
    """The first drawn iteration without any weight to come, when the teacher is freed; None if there is none."""
    for progress in points(length):
        if all(loss.is_over(progress) for loss in losses.values()):
            return progress.iteration
    return None


def follow_learning_rate(cfg: Config, length: Progress) -> list[float]:
    """The learning rate at :func:`points`: the config's schedulers, stepped through a run without a model.

    Empty where a scheduler follows a metric.
    """
    rate = cfg.optim_wrapper.optimizer.lr
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate))
    per_epoch = length.iteration // max(int(length.epoch), 1)
    configs = cfg.get('param_scheduler') or []
    schedulers = []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        for config in [configs] if isinstance(configs, Mapping) else configs:
            if 'ReduceOnPlateau' in config.type:
                return []
            schedulers.append(
                PARAM_SCHEDULERS.build(
                    config, default_args=dict(optimizer=wrapper, epoch_length=per_epoch)
                )
            )
    drawn = {progress.iteration for progress in points(length)}
    rates = []
    for iteration in range(length.iteration):
        if iteration in drawn:
            rates.append(wrapper.get_lr()['lr'][0])
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % per_epoch == 0:
                scheduler.step()
    return rates


def draw(
    path: str | Path,
    weights: dict[str, list[float]],
    rates: list[float],
    length: Progress,
    over: int | None,
) -> Figure:
    """Draw the weights, and the learning rate below."""
    by_epoch = length.max_epochs != 1
    places = [progress.epoch if by_epoch else progress.iteration for progress in points(length)]
    figure = Figure(figsize=(8, 5 if rates else 3.2), dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 if rates else 1, sharex=True, squeeze=False)[:, 0]
    for name, values in weights.items():
        panels[0].step(places, values, where='post', label=f'{name}')
    panels[0].set_ylabel('weight of the loss')
    panels[0].set_ylim(bottom=0)
    if over is not None:
        place = at(length, over).epoch if by_epoch else over
        panels[0].axvline(place, color='0.4', ls=':', label='the teacher is freed')
    panels[0].legend(frameon=False)
    if rates:
        panels[1].step(places, rates, where='post', color='0.2')
        panels[1].set_ylabel('learning rate')
        panels[1].set_ylim(bottom=0)
    panels[-1].set_xlabel('epoch' if by_epoch else 'iteration')
    for axes in panels:
        _tidy(axes)
    # Without a format, matplotlib adds an ending to a name that has none, as of a folder.
    figure.savefig(path, format=Path(path).suffix[1:] or 'png')
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)


if __name__ == '__main__':
    sys.exit(main())
