"""Train a student by distillation, or any plain MMDetection or MMPretrain config."""

from __future__ import annotations

import argparse
import os.path as osp
import sys

# Works from a clone as well, before `pip install -e .`.
sys.path.append(osp.dirname(osp.dirname(osp.abspath(__file__))))

from mmengine.config import Config

from mmkd.utils import (
    PreflightError,
    add_common_arguments,
    build_runner,
    check_before_training,
    close_process_group,
    load_config,
    prepare_cpu,
    report_missing,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read MMDetection's command line for training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='the recipe, or the config of a plain model')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the batch size of all processes together',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from this checkpoint; without a path, from the last one in the work folder',
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


def apply_training_options(cfg: Config, args: argparse.Namespace) -> None:
    """Set ``--amp``, ``--auto-scale-lr`` and ``--resume`` in ``cfg``."""
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if args.auto_scale_lr:
        auto_scale_lr = cfg.get('auto_scale_lr') or {}
        missing = [name for name in ('enable', 'base_batch_size') if name not in auto_scale_lr]
        if missing:
            raise PreflightError(
                [
                    f'--auto-scale-lr: the config does not set auto_scale_lr.{name}: it must name '
                    'the batch size that its learning rate was chosen for, '
                    'auto_scale_lr=dict(enable=False, base_batch_size=16)'
                    for name in missing
                ]
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume


def main(argv: list[str] | None = None) -> int:
    """Train; return the exit code: 0, or 2 if something is missing that training needs."""
    args = parse_args(argv)
    try:
        cfg = load_config(args)
        apply_training_options(cfg, args)
        check_before_training(cfg)
    except PreflightError as error:
        return report_missing(error, args.launcher)
    prepare_cpu(cfg)
    build_runner(cfg).train()
    close_process_group()
    return 0


if __name__ == '__main__':
    sys.exit(main())
