"""The part of MMDetection's command line that training and testing share."""

from __future__ import annotations

import argparse
import os
import os.path as osp
import sys
import time
import traceback
from collections.abc import Callable

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkd.checkpoints import load_safely
from mmkd.utils.cfg_options import CfgOptions, merge
from mmkd.utils.data_root import override_data_root
from mmkd.utils.failures import setting_at_fault
from mmkd.utils.output_paths import paths_outside
from mmkd.utils.preflight import PreflightError
from mmkd.utils.processes import local_rank
from mmkd.utils.recipe import make_recipe
from mmkd.utils.run_name import run_name
from mmkd.utils.student_config import teacher_configs

SECONDS_FOR_THE_FIRST = 15
"""How long the other processes wait with an error that the first will say."""


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, ``--launcher`` and ``--local-rank`` as MMDetection has them."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='settings of the config to override, as key=value; a list is given as key="[a,b]" or '
        'key=a,b, nested as key="[(a,b),(c,d)]", a dict as key="dict(type=\'Stop\', at=8)". '
        'data_root=FOLDER moves all datasets and evaluators to another folder',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes (tools/dist_train.sh says pytorch)',
    )
    parser.add_argument(
        '--allow-pickle',
        action='store_true',
        help='load checkpoints that hold more than weights too; what is in them can execute '
        'anything: only for files you trust',
    )
    # torch.distributed.launch passes --local-rank since PyTorch 2.0 and --local_rank before.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def positive_number(text: str) -> int:
    """Read the value of an option that is a number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f'{text} is not a number from 1 on')
    return int(text)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--teacher`` and ``--losses``: distil with any config, no recipe to write."""
    parser.add_argument(
        '--teacher',
        metavar='CONFIG[=CHECKPOINT]',
        help='teach the student of a plain config by this network: a file or mmdet::...; without a checkpoint the one '
        'that is published for an mmdet:: or mmpretrain:: config',
    )
    parser.add_argument(
        '--losses',
        metavar='METHOD[+METHOD]',
        help='by these methods, such as ckd+pkd, with the settings for the head and the pair at hand',
    )


def add_schedule_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--schedule``."""
    parser.add_argument(
        '--schedule',
        metavar='FILE',
        help='change the config by this one, such as mmdet::_base_/schedules/schedule_2x.py',
    )


def read_config(path: str) -> Config:
    """Read a config file or one of a package, ``mmdet::...``, or say why it cannot be read.

    Raises:
        PreflightError: There is no such file, it is no config, or it cannot be executed.
    """
    packaged = '::' in path
    if not packaged and not osp.isfile(path):
        raise PreflightError(f'config: there is no file {path}')
    try:
        return get_config(path) if packaged else Config.fromfile(path)
    except Exception as error:  # whatever a config executes can raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f' ({last.filename}, line {last.lineno})' if last.name == '<module>' else ''
        raise PreflightError(f'config: {path}: {type(error).__name__}: {error}{place}') from error


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config``, apply the options of the command line to it, and have checkpoints loaded safely.

    The data folder comes from ``--cfg-options data_root=...``, else from the environment variable
    ``MMDET_DATASETS`` (configs of MMDetection only), else from the config; the work folder from
    ``--work-dir``, else from the config, else it is ``work_dirs/<folder>/<name>`` of the config.

    Args:
        args: with ``config``, ``work_dir`` and what :func:`add_common_arguments` adds.

    Returns:
        The config as MMEngine's Runner takes it.

    Raises:
        PreflightError: the config file does not exist or is none, a setting of the command line would change
            nothing, the data folder cannot be replaced, or the config would write outside of its work folder.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    cfg.launcher = args.launcher
    teacher, losses = (getattr(args, name, None) for name in ('teacher', 'losses'))
    if teacher is not None or losses is not None:
        make_recipe(cfg, teacher, losses)
    cfg.pop('presets', None)  # used up
    schedule = getattr(args, 'schedule', None)
    if schedule is not None:
        cfg.merge_from_dict(read_config(schedule).to_dict())

    options = args.cfg_options or {}
    data_root = options.get('data_root')
    if data_root is None and cfg.get('default_scope') == 'mmdet':
        data_root = os.environ.get('MMDET_DATASETS')
    if data_root is not None:
        try:
            changed = override_data_root(cfg, data_root)
        except ValueError as error:
            raise PreflightError(str(error)) from error
        if local_rank(args.launcher) == 0:
            print_log(
                f'data_root is {data_root}, used in {len(changed)} settings.', logger='current'
            )
    # After the data folder, so that a single path can still be set by its own key.
    merge(cfg, options)

    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', run_name(cfg, args.config, schedule))

    problems = paths_outside(cfg, chosen=options)
    if problems:
        raise PreflightError(*problems)

    # Here and not beside the runner: whatever a command loads, it loads after its config.
    load_safely(allow_pickle=args.allow_pickle, option='--allow-pickle')
    if args.allow_pickle:
        for teacher in teacher_configs(cfg.get('model')).values():
            if 'checkpoint' in teacher:
                teacher.allow_pickle = True

    if cfg.get('default_scope') == 'mmpretrain':
        _set_mmpretrain_dataloaders(cfg)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the Runner that ``cfg`` asks for, MMEngine's own unless ``runner_type`` names one."""
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)


def exit_code_of(
    run: Callable[[], int], launcher: str, has_begun: Callable[[], bool] = lambda: False
) -> int:
    """Run a command; print an error that says what the run lacks, or what is wrong with a setting.

    Args:
        run: The command. Its other errors are raised.
        launcher: What started the processes.
        has_begun: Whether the settings turned out to be right, so that an error is not of one of them.

    Returns:
        What ``run`` returns, or the exit code of the error, mostly 2.
    """
    try:
        return run()
    except PreflightError as error:
        return report_missing(error, launcher)
    except Exception as error:
        problem = None if has_begun() else setting_at_fault(error)
        if problem is None:
            raise
        return report_missing(PreflightError(problem), launcher)


def report_missing(error: PreflightError, launcher: str) -> int:
    """Print what a run lacks, once per machine; return the exit code."""
    if local_rank(launcher) != 0:
        # The launcher ends all processes when one ends: the first, which mostly finds the same, is left time to say it.
        time.sleep(SECONDS_FOR_THE_FIRST)
    print(error, file=sys.stderr)
    return error.exit_code


def _set_mmpretrain_dataloaders(cfg: Config) -> None:
    """Set what MMPretrain's own tools set and its configs therefore leave out."""
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataloader = cfg.get(key)
        if dataloader is not None:
            dataloader.setdefault('pin_memory', get_device() != 'cpu')
            dataloader.setdefault('persistent_workers', dataloader.get('num_workers', 0) > 0)
            dataloader.setdefault('collate_fn', dict(type='default_collate'))
