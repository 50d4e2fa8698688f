"""Run a recipe's teacher once over all training samples and views, and keep what the recipe's losses ask of it.

    mmkd cache RECIPE --views 2 --out work_dirs/stores/teacher

A recipe whose teacher then has ``store='work_dirs/stores/teacher'`` trains without running it. A command that was
stopped goes on where it was; one that is finished makes anew only what is missing or damaged.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as torch_dist
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import set_random_seed

from mmkd.distillers.storing import MIB, Source, make_store, pair_key, verify_store
from mmkd.registry import MODELS
from mmkd.structures import TEACHER, Holding
from mmkd.teachers.store import Manifest, Store
from mmkd.teachers.store_key import data_key
from mmkd.teachers.stored import wanted
from mmkd.utils import (
    PreflightError,
    add_common_arguments,
    add_recipe_arguments,
    check_before_training,
    close_process_group,
    exit_code_of,
    is_distiller,
    load_config,
    lock_work_dir,
    positive_number,
    prepare_cpu,
    quiet_packages,
)


class NothingToStoreError(PreflightError):
    """No loss of the recipe can be answered from a store."""

    exit_code = 3


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog='mmkd cache', description=(__doc__ or '').splitlines()[0])
    parser.add_argument('config', help='the recipe')
    parser.add_argument(
        '--out', help="the store's folder; default: the recipe's model.teacher.store"
    )
    parser.add_argument(
        '--views',
        type=positive_number,
        help='random draws of the augmentation of each sample; default: those of the SeededViews of the recipe',
    )
    parser.add_argument(
        '--top',
        type=positive_number,
        help='samples of a dense head that are kept of each image, if more than the losses of the recipe ask for',
    )
    parser.add_argument(
        '--boxes', action='store_true', help='keep boxes, even if no loss asks for them'
    )
    parser.add_argument(
        '--name', default=TEACHER, help='name of the teacher, in a recipe with several'
    )
    parser.add_argument(
        '--batch-size', type=positive_number, help="images at a time; default: the recipe's"
    )
    parser.add_argument(
        '--shard-samples', type=positive_number, default=512, help='samples in a file'
    )
    parser.add_argument(
        '--verify',
        nargs='?',
        type=positive_number,
        const=16,
        metavar='SAMPLES',
        help='write nothing: compute so many random samples and views again, and compare',
    )
    parser.add_argument('--info', action='store_true', help='say what the store holds, and end')
    add_recipe_arguments(parser)
    add_common_arguments(parser)
    parser.set_defaults(work_dir=None)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Make, verify or describe a store.

    Returns:
        The exit code: 0, 1 if rows differ, 2 if something is missing or in the way, 3 if no loss of the recipe can be
        answered from a store.
    """
    args = parse_args(argv)
    try:
        return exit_code_of(lambda: run(args), args.launcher)
    finally:
        close_process_group()


def run(args: argparse.Namespace) -> int:
    """Do as ``args`` ask; return the exit code."""
    cfg = load_config(args)
    out = prepare(cfg, args)
    if args.info:
        print(describe(Manifest.load(out), out))
        return 0
    quiet_packages(cfg.get('default_scope'))
    check_before_training(cfg)
    if args.verify:
        return int(not verify_store(build(cfg, args), Store(out), args.verify))
    try:
        with lock_work_dir(str(out), args.launcher, '--out'):
            source = build(cfg, args)
            manifest = make_store(source, out, args.shard_samples)
    except OSError as error:
        reason = f'{error.strerror or error} ({error.filename or out})'
        raise PreflightError(
            f'--out: {reason}: what is whole is kept; mend that and run the same command again'
        ) from error
    say(describe(manifest, out))
    views = f"dict(type='mmkd.SeededViews', views={manifest.views}, seed={source.dataset.seed}, dataset=...)"
    say(f'To use it: model.teacher.store={str(out)!r}, train_dataloader.dataset={views}')
    return 0


def prepare(cfg: Config, args: argparse.Namespace) -> Path:
    """Make the teacher of the recipe a live one, wrap its data; the store's folder."""
    if not is_distiller(cfg.model):
        raise PreflightError(
            'config: no distillation, but a plain model: give a recipe with a teacher'
        )
    teachers = cfg.model.get('teachers') or {TEACHER: cfg.model.get('teacher')}
    teacher = teachers.get(args.name)
    if teacher is None:
        raise PreflightError(
            f'--name: there is no teacher {args.name!r}; there is {", ".join(map(repr, teachers))}'
        )
    out = args.out or teacher.get('store')
    if out is None:
        raise PreflightError("--out: name the store's folder")
    for each in teachers.values():
        for option in ('store', 'store_miss'):
            each.pop(option, None)
        if each.get('type') == 'mmkd.StoredTeacher':
            del each['type']
    teacher['fuse'] = False  # the store is of the weights as they are in the file
    dataset = cfg.train_dataloader.dataset
    if not str(dataset.get('type')).endswith('SeededViews'):
        if args.views is None:
            raise PreflightError(
                '--views: the recipe has no SeededViews around its training data: say how many views of each image '
                'there should be, such as --views 2'
            )
        dataset = dict(type='mmkd.SeededViews', dataset=dataset)
    if args.views is not None:
        dataset['views'] = args.views
    cfg.train_dataloader.dataset = ConfigDict(dataset)
    return Path(out)


def build(cfg: Config, args: argparse.Namespace) -> Source:
    """Build the pair and the data, as a training run does."""
    prepare_cpu(cfg)
    if args.launcher != 'none' and not torch_dist.is_initialized():
        torch_dist.init_process_group('gloo')  # one GPU per process needs no NCCL here
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None:  # a random teacher is that of the training run
        set_random_seed(seed)
    model = dict(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    distiller = MODELS.build(model).to(device())
    distiller.eval()
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    MessageHub.get_current_instance().update_info('dataset_meta', dataset.metainfo)
    asked, problems = wanted(distiller.requests_of(args.name), distiller.sources)
    for loss, problem in problems.items():
        say(f"{loss}: left to the live teacher, with store_miss='live': {problem}")
    if asked is None:
        raise NothingToStoreError(
            f'model.losses: no store answers any of them: {"; ".join(problems.values()) or "there is none"}'
        )
    if args.top is not None and asked.top is not None:
        asked |= Holding(args.top)
    asked |= Holding(0 if asked.top is not None else None, args.boxes)
    config = (cfg.model.get('teachers') or {TEACHER: cfg.model.get('teacher')})[args.name]['config']
    names = dataset.metainfo.get('classes')
    loader = cfg.train_dataloader
    return Source(
        distiller,
        args.name,
        dataset,
        loader.get('num_workers', 0),
        args.batch_size or loader.get('batch_size') or 1,
        asked,
        pair_key(distiller, config, names, args.name) | data_key(dataset, cfg),
        say,
    )


def describe(manifest: Manifest, folder: Path) -> str:
    """A store in a few lines."""
    size = sum(shard.bytes for shard in manifest.shards)
    rows = sum(shard.rows for shard in manifest.shards)
    lines = [
        f'{folder}: {manifest.holding}; {manifest.views} views of {manifest.samples} samples, {rows} rows in '
        f'{len(manifest.shards)} files, {size / MIB:.1f} MiB; each image padded as if it were alone'
    ]
    return '\n'.join(lines + [f'  {field}: {value}' for field, value in manifest.key.items()])


def device() -> torch.device:
    """Where the teacher runs."""
    kind = get_device()
    return (
        torch.device(kind, get_rank() % torch.cuda.device_count())
        if kind == 'cuda'
        else torch.device(kind)
    )


def say(text: str) -> None:
    """A line of progress, once."""
    if get_rank() == 0:
        print(text, flush=True)
