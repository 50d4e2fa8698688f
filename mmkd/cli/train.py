"""Train a student by distillation, or any plain MMDetection or MMPretrain config."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook

from mmkd.datasets.seeded_views import SeededViews
from mmkd.datasets.unreadable import skip_unreadable
from mmkd.hooks import (
    FiniteLossHook,
    ResumeStateHook,
    SeededViewsHook,
    StartReportHook,
    TeacherStoreHook,
    WholeCheckpointHook,
)
from mmkd.utils import (
    FirstStep,
    FittingCheckpoint,
    PreflightError,
    Stopping,
    add_common_arguments,
    add_recipe_arguments,
    add_schedule_argument,
    advice_on,
    build_runner,
    check_before_training,
    close_process_group,
    command_line,
    exit_code_of,
    is_distiller,
    kept_checkpoint,
    load_config,
    lock_work_dir,
    prepare_cpu,
    quiet_logger,
    quiet_packages,
    resolve_resume,
    warn_of_overwriting,
)
from mmkd.utils.settings import settings


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read MMDetection's command line for training."""
    parser = argparse.ArgumentParser(prog='mmkd train', description=__doc__)
    parser.add_argument(
        'config',
        help='the recipe, or the config of a plain model: a file, or mmdet::... of a package',
    )
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--compile',
        action='store_true',
        help='torch.compile: backbones and necks of student and teacher; a plain config as a whole',
    )
    parser.add_argument(
        '--channels-last',
        action='store_true',
        help='keep the weights of student and teacher in channels-last memory',
    )
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
    parser.add_argument(
        '--bad-images',
        choices=['error', 'skip'],
        default='error',
        help='what to do about a training image that is missing or cannot be read: end the run, or '
        'name it, count it and take another',
    )
    add_recipe_arguments(parser)
    parser.add_argument(
        '--print-recipe',
        metavar='FILE',
        help='write the equivalent config, which trains the same, and end',
    )
    add_schedule_argument(parser)
    add_common_arguments(parser)
    return parser.parse_args(argv)


def apply_training_options(cfg: Config, args: argparse.Namespace) -> None:
    """Set in ``cfg`` what the options of the command line ask for."""
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if args.compile:
        target = cfg.model if is_distiller(cfg.model) else cfg
        target.compile = target.get('compile') or True
    if args.channels_last:
        if not is_distiller(cfg.model):
            raise PreflightError(
                '--channels-last: only a distillation has this option, model.channels_last; the '
                'model of this config is a plain one: leave it out'
            )
        cfg.model.channels_last = True
    if args.auto_scale_lr:
        auto_scale_lr = cfg.get('auto_scale_lr') or {}
        missing = [name for name in ('enable', 'base_batch_size') if name not in auto_scale_lr]
        if missing:
            names = ' and '.join(f'auto_scale_lr.{name}' for name in missing)
            raise PreflightError(
                f'--auto-scale-lr: the config does not set {names}: it must name the batch size that its '
                'learning rate was chosen for, auto_scale_lr=dict(enable=False, base_batch_size=16)'
            )
        cfg.auto_scale_lr.enable = True
    if args.bad_images == 'skip' and not skip_unreadable(cfg):
        raise PreflightError(
            '--bad-images skip: the training pipeline has no LoadImageFromFile of its own: wrap what '
            "loads images, dict(type='mmkd.SkipUnreadable', loader=dict(type=...))"
        )
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume


def main(argv: Sequence[str]) -> int:
    """Train; return the exit code: 0, 2 if something is missing that training needs, 130 or 143 if it was stopped."""
    args, first_step = parse_args(argv), FirstStep()
    with Stopping(args.launcher) as stop:
        return exit_code_of(
            lambda: run(args, argv, stop, first_step), args.launcher, lambda: first_step.done
        )
    return stop.exit_code


def run(args: argparse.Namespace, argv: Sequence[str], stop: Stopping, first_step: Hook) -> int:
    """Train as ``args``, read from ``argv``, ask for; return the exit code."""
    began = time.time()
    cfg = load_config(args)
    stop.outlook = lambda: outlook(cfg, args, argv, began)
    quiet_packages(cfg.get('default_scope'))
    apply_training_options(cfg, args)
    if args.print_recipe:
        write_recipe(cfg, args.print_recipe)
        return 0
    check_before_training(cfg)
    try:
        with lock_work_dir(cfg.work_dir, args.launcher):
            resolve_resume(cfg)
            warn_of_overwriting(cfg)
            train(cfg, first_step)
    except Exception as error:
        if (advice := advice_on(error, cfg)) is not None:
            error.add_note(advice)
        raise
    return 0


def write_recipe(cfg: Config, path: str) -> None:
    """Write the config that trains the same.

    Raises:
        PreflightError: The file has another ending than a config's, or cannot be written.
    """
    if not path.endswith(('.py', '.json', '.yaml', '.yml')):
        raise PreflightError(f'--print-recipe: {path} has no ending of a config: name it {path}.py')
    try:
        cfg.dump(path)
    except OSError as error:
        raise PreflightError(f'--print-recipe: {path}: {error.strerror}') from error
    print(f'Written: {path}')


def outlook(cfg: Config, args: argparse.Namespace, argv: Sequence[str], began: float) -> str:
    """What a run that is stopped leaves behind, and the command that goes on."""
    kept = kept_checkpoint(cfg, began)
    if kept is None:
        return (
            f'Nothing was saved yet. To begin again: {command_line("train", argv, args.launcher)}'
        )
    again = argv if args.resume == 'auto' else [*argv, '--resume']
    return f'Kept: {kept}. To go on: {command_line("train", again, args.launcher)}'


def train(cfg: Config, *hooks: Hook) -> None:
    """Train ``cfg`` with what makes a run safe to stop, whether or not its config asks for it, and these hooks."""
    prepare_cpu(cfg)
    runner = build_runner(cfg)
    quiet_logger(runner.logger)
    for index, hook in enumerate(runner.hooks):
        if type(hook) is CheckpointHook:
            runner.hooks[index] = WholeCheckpointHook.take_over(hook)
    kinds: list[type[Hook]] = [ResumeStateHook, FiniteLossHook]
    data = settings(cfg.train_dataloader.dataset)
    if any(value in (SeededViews, 'mmkd.SeededViews') for _, value in data):
        kinds.append(SeededViewsHook)
    if is_distiller(cfg.model):
        kinds += [TeacherStoreHook, StartReportHook]
    for kind in kinds:
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    if cfg.get('resume'):
        runner.register_hook(FittingCheckpoint('--resume'))
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    close_process_group()
