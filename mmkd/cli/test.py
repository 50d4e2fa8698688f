"""Evaluate a checkpoint: a distilled student, or any plain MMDetection or MMPretrain model."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import METRICS

from mmkd.datasets.configs import data_sets
from mmkd.utils import (
    DropDistillWeights,
    FittingCheckpoint,
    PreflightError,
    Stopping,
    add_common_arguments,
    add_recipe_arguments,
    build_runner,
    check_before_testing,
    close_process_group,
    exit_code_of,
    load_config,
    prepare_cpu,
    quiet_logger,
    quiet_packages,
    student_config,
)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read MMDetection's command line for testing."""
    parser = argparse.ArgumentParser(prog='mmkd test', description=__doc__)
    parser.add_argument('config', help="the student's plain config, or the recipe that trained it")
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for the log and the metrics')
    parser.add_argument('--out', help='write the predictions to this .pkl file')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='save painted images in work_dir/timestamp/THIS FOLDER')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show shows an image'
    )
    parser.add_argument(
        '--split',
        choices=['test', 'val'],
        default='test',
        help="evaluate on the config's test_dataloader (the default) or on its val_dataloader",
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_recipe_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, not {args.out}')
    return args


def apply_show(cfg: Config, args: argparse.Namespace) -> None:
    """Turn the visualisation hook on as ``--show`` and ``--show-dir`` ask."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise PreflightError(
            '--show: the config has no default_hooks.visualization, which draws the predictions'
        )
    if cfg.get('default_scope') == 'mmpretrain':
        hook.update(enable=True, show=args.show, wait_time=args.wait_time, out_dir=args.show_dir)
        return
    hook.draw = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir:
        hook.test_out_dir = args.show_dir


def apply_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation: the config's own, else a horizontal flip."""
    _, dataset = next(data_sets(cfg.test_dataloader.dataset))
    model, last_step = _default_tta(cfg, dataset.pipeline[-1])
    if 'tta_model' not in cfg:
        cfg.tta_model = model
    if 'tta_pipeline' not in cfg:
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.tta_pipeline = copy.deepcopy(dataset.pipeline)
        cfg.tta_pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [last_step]])
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _default_tta(cfg: Config, pack_step: dict) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model that merges augmented predictions, and the pipeline's last step for it."""
    if cfg.get('default_scope') == 'mmpretrain':
        return dict(type='mmpretrain.AverageClsScoreTTA'), pack_step
    tta_cfg = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    return (
        dict(type='DetTTAModel', tta_cfg=tta_cfg),
        dict(type='PackDetInputs', meta_keys=(*meta_keys, 'flip', 'flip_direction')),
    )


def main(argv: Sequence[str]) -> int:
    """Test; return the exit code: 0, 2 if something is missing that testing needs, 130 or 143 if it was stopped."""
    args = parse_args(argv)
    with Stopping(args.launcher) as stop:
        return exit_code_of(lambda: run(args), args.launcher)
    return stop.exit_code


def run(args: argparse.Namespace) -> int:
    """Test as ``args`` ask for; return the exit code."""
    cfg = student_config(load_config(args))
    quiet_packages(cfg.get('default_scope'))
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.split == 'val':
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    if args.show or args.show_dir:
        apply_show(cfg, args)
    if args.tta:
        apply_tta(cfg)
    check_before_testing(cfg)
    prepare_cpu(cfg)
    runner = build_runner(cfg)
    quiet_logger(runner.logger)
    runner.register_hook(DropDistillWeights())
    runner.register_hook(FittingCheckpoint('checkpoint'))
    if args.out is not None:
        dump = 'mmengine.DumpResults'
        if cfg.get('default_scope') == 'mmdet':
            dump = 'mmdet.DumpDetResults'
        metric = METRICS.build(dict(type=dump, out_file_path=args.out))
        runner.test_evaluator.metrics.append(metric)
    runner.test()
    close_process_group()
    return 0
