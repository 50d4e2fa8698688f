"""Draw the weight of every distillation loss of a recipe, and the learning rate, over the whole run.

    python tools/draw_schedules.py configs/shapes/retinanet_ckd.py --out schedules.png

No model is built and no image is read. How many iterations an epoch has comes from the data set; where
that is not on this machine, from --iterations-per-epoch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
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


def main(argv: list[str] | None = None) -> int:
    """Draw; return the exit code: 0, or 2 if something is missing."""
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
    try:
        cfg = load_config(args)
        quiet_packages(cfg.get('default_scope'))
        losses = build_losses(cfg)
        points = run_points(cfg, args.iterations_per_epoch)
        figure = draw(losses, learning_rates(cfg, points), points)
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        # Without a format, matplotlib adds an ending to a name that has none, as of a folder.
        figure.savefig(args.out, format=Path(args.out).suffix[1:] or 'png')
    except PreflightError as error:
        return report_missing(error, args.launcher)
    except (OSError, TypeError, ValueError) as error:  # of a loss's options, or of --out
        return report_missing(PreflightError(str(error)), args.launcher)
    print(f'wrote {args.out}')
    return 0


def build_losses(cfg: Config) -> dict[str, DistillLoss]:
    """The distillation losses of a recipe by name, as the Distiller builds them."""
    configs = cfg.model.get('losses')
    if not configs:
        raise PreflightError(
            'config: model.losses is empty or not there: only a recipe with a teacher has weights'
        )
    return {
        name: build(LOSSES, config, where=f'model.losses.{name}')
        for name, config in configs.items()
    }


def run_points(cfg: Config, per_epoch: int | None) -> list[Progress]:
    """Every iteration of the run; an IterBasedTrainLoop counts one epoch."""
    if (total := cfg.train_cfg.get('max_iters')) is not None:
        return [Progress(step, step / total, total, 1) for step in range(total)]
    if per_epoch is None:
        loader = {**cfg.train_dataloader, 'num_workers': 0, 'persistent_workers': False}
        try:
            with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
                per_epoch = len(Runner.build_dataloader(loader))
        except FileNotFoundError as error:
            advice = 'give --iterations-per-epoch, or data_root in --cfg-options'
            raise PreflightError(f'train_dataloader: {error}: {advice}') from error
    epochs = cfg.train_cfg.max_epochs
    total = epochs * per_epoch
    return [Progress(step, step / per_epoch, total, epochs) for step in range(total)]


def learning_rates(cfg: Config, points: Sequence[Progress]) -> list[float]:
    """The learning rate in every iteration: the config's schedulers, stepped through a run without a model.

    Empty where a scheduler follows a metric.
    """
    rate = cfg.optim_wrapper.optimizer.lr
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate))
    per_epoch = len(points) // (points[0].max_epochs or 1)
    configs = cfg.get('param_scheduler') or []
    configs = [configs] if isinstance(configs, Mapping) else configs
    if any('ReduceOnPlateau' in config.type for config in configs):
        return []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        options = dict(optimizer=wrapper, epoch_length=per_epoch)
        schedulers = [PARAM_SCHEDULERS.build(config, default_args=options) for config in configs]
    rates = []
    for point in points:
        rates += wrapper.get_lr()['lr'][:1]
        for scheduler in schedulers:
            if not scheduler.by_epoch or (point.iteration + 1) % per_epoch == 0:
                scheduler.step()
    return rates


def draw(
    losses: Mapping[str, DistillLoss], rates: Sequence[float], points: Sequence[Progress]
) -> Figure:
    """Draw the weights, where the teacher is freed, and the learning rate below."""
    unit = 'iteration' if points[0].max_epochs == 1 else 'epoch'
    places = [getattr(point, unit) for point in points]
    figure = Figure(figsize=(8, 5 if rates else 3.2), dpi=110, layout='constrained')
    panels = figure.subplots(1 + bool(rates), sharex=True, squeeze=False)[:, 0]
    for name, loss in losses.items():
        label = name + ' (share of the gradient)' * isinstance(loss.schedule, GradientShare)
        panels[0].step(places, [loss.weight(point) for point in points], where='post', label=label)
    panels[0].set_ylabel('weight of the loss')
    is_over = (all(loss.is_over(point) for loss in losses.values()) for point in points)
    over = next((place for place, freed in zip(places, is_over, strict=True) if freed), None)
    if over is not None:
        panels[0].axvline(over, color='0.4', ls=':', label='the teacher is freed')
    panels[0].legend(frameon=False)
    if rates:
        panels[1].step(places, rates, where='post', color='0.2')
        panels[1].set_ylabel('learning rate')
    panels[-1].set_xlabel(unit)
    for axes in panels:
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    return figure


if __name__ == '__main__':
    sys.exit(main())
