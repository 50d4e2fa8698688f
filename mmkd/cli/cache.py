"""Run a recipe's teacher once over all training samples and views, and keep what the recipe's losses ask of it.

    mmkd cache RECIPE --views 2 --out work_dirs/stores/teacher

A recipe whose teacher then has ``store='work_dirs/stores/teacher'`` trains without running it. A command that was
stopped goes on where it was; one that is finished makes anew only what is missing or damaged.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import set_random_seed
from torch.utils.data import DataLoader

from mmkd.distillers import Distiller
from mmkd.registry import MODELS
from mmkd.structures import TEACHER, Holding, StoredRows, head_source
from mmkd.teachers import StoreError
from mmkd.teachers.store import (
    Manifest,
    Shard,
    Store,
    check_key,
    find_shard,
    write_shard,
)
from mmkd.teachers.store_key import class_key, data_key, probe, teacher_key
from mmkd.teachers.stored import wanted
from mmkd.utils import (
    PreflightError,
    add_common_arguments,
    add_recipe_arguments,
    check_before_training,
    close_process_group,
    is_distiller,
    load_config,
    lock_work_dir,
    prepare_cpu,
    quiet_packages,
    report_missing,
    setting_at_fault,
)

Sample = tuple[StoredRows, StoredRows]


class NothingToStoreError(PreflightError):
    """No loss of the recipe can be answered from a store."""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog='mmkd cache', description=(__doc__ or '').splitlines()[0])
    parser.add_argument('config', help='the recipe')
    parser.add_argument(
        '--out', help="the store's folder; default: the recipe's model.teacher.store"
    )
    parser.add_argument(
        '--views',
        type=int,
        help='random draws of the augmentation of each sample; default: those of the SeededViews of the recipe',
    )
    parser.add_argument(
        '--top',
        type=int,
        help='samples of a dense head that are kept of each image, if more than the losses of the recipe ask for',
    )
    parser.add_argument(
        '--boxes', action='store_true', help='keep boxes, even if no loss asks for them'
    )
    parser.add_argument(
        '--name', default=TEACHER, help='name of the teacher, in a recipe with several'
    )
    parser.add_argument('--batch-size', type=int, help="images at a time; default: the recipe's")
    parser.add_argument('--shard-samples', type=int, default=512, help='samples in a file')
    parser.add_argument(
        '--verify',
        nargs='?',
        type=int,
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
        for option in ('views', 'top', 'batch_size', 'shard_samples', 'verify'):
            number = getattr(args, option)
            if number is not None and number < 1:
                name = option.replace('_', '-')
                raise PreflightError([f'--{name}: {number} is not a number from 1 on'])
        cfg = load_config(args)
        out = prepare(cfg, args)
        if args.info:
            print(describe(Manifest.load(out), out))
            return 0
        quiet_packages(cfg.get('default_scope'))
        check_before_training(cfg)
        if args.verify:
            return verify(build(cfg, args, out), Store(out), args.verify)
        with lock_work_dir(str(out), args.launcher, '--out'):
            make(build(cfg, args, out), args, out)
    except PreflightError as error:
        code = report_missing(error, args.launcher)
        return 3 if isinstance(error, NothingToStoreError) else code
    except OSError as error:
        reason = f'{error.strerror or error} ({error.filename or out})'
        text = f'--out: {reason}: what is whole is kept; mend that and run the same command again'
        return report_missing(PreflightError([text]), args.launcher)
    except Exception as error:
        problem = setting_at_fault(error)
        if problem is None:
            raise
        return report_missing(PreflightError([problem]), args.launcher)
    finally:
        close_process_group()
    return 0


def prepare(cfg: Config, args: argparse.Namespace) -> Path:
    """Make the teacher of the recipe a live one, wrap its data; the store's folder."""
    if not is_distiller(cfg.model):
        raise PreflightError(
            ['config: no distillation, but a plain model: give a recipe with a teacher']
        )
    teachers = cfg.model.get('teachers') or {TEACHER: cfg.model.get('teacher')}
    teacher = teachers.get(args.name)
    if teacher is None:
        raise PreflightError(
            [
                f'--name: there is no teacher {args.name!r}; there is {", ".join(map(repr, teachers))}'
            ]
        )
    out = args.out or teacher.get('store')
    if out is None:
        raise PreflightError(["--out: name the store's folder"])
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
                [
                    '--views: the recipe has no SeededViews around its training data: say how many views of each image '
                    'there should be, such as --views 2'
                ]
            )
        dataset = dict(type='mmkd.SeededViews', dataset=dataset)
    if args.views is not None:
        dataset['views'] = args.views
    cfg.train_dataloader.dataset = ConfigDict(dataset)
    return Path(out)


@dataclass
class Source:
    """What a store is made from.

    Attributes:
        distiller: The pair.
        teacher: Name of the teacher.
        dataset: The training data, within SeededViews.
        workers: Processes that load images.
        batch_size: Images at a time.
        holding: How much is kept.
        key: What the store is of.
    """

    distiller: Distiller
    teacher: str
    dataset: Any
    workers: int
    batch_size: int
    holding: Holding
    key: dict[str, Any]

    @property
    def items(self) -> int:
        """Samples times views."""
        return len(self.dataset) * self.dataset.views

    def load(self, batches: Sequence[Sequence[int]]) -> Iterator[list[Sample]]:
        """What is kept of the items of each batch."""
        pairs = [
            [(item % len(self.dataset), item // len(self.dataset)) for item in batch]
            for batch in batches
        ]
        loader = DataLoader(
            self.dataset,
            batch_sampler=pairs,
            num_workers=min(self.workers, len(pairs)),
            collate_fn=lambda samples: samples,
        )
        for samples in loader:
            yield self.compute(samples)

    @torch.no_grad()
    def compute(self, samples: Sequence[Any]) -> list[Sample]:
        """What is kept of these samples; each is padded as if it were alone, so that it does not depend on others."""
        kept: dict[int, Sample] = {}
        shapes = [tuple(sample['inputs'].shape) for sample in samples]
        for shape in sorted(set(shapes)):
            places = [place for place, own in enumerate(shapes) if own == shape]
            data = pseudo_collate([samples[place] for place in places])
            data = self.distiller.data_preprocessor(data, True)
            inputs, data_samples = data['inputs'], data['data_samples']
            with alone():
                rows = self.distiller.teacher_rows(inputs, data_samples, self.holding, self.teacher)
            pixels = probe(inputs, data_samples, self.distiller.data_preprocessor).half().cpu()
            canvas = torch.tensor(inputs.shape[-2:], dtype=torch.int32)
            for place, own, seen in zip(places, rows, pixels, strict=True):
                own = {name: part.cpu() for name, part in own.items()}
                kept[place] = own, {'probe': seen, 'canvas': canvas}
        return [kept[place] for place in range(len(samples))]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let nothing in the block wait for other processes, which have other numbers of batches.

    The student's own loss would, whose assigner says which samples are positive: it averages its divisor over them.
    """
    is_initialized = torch_dist.is_initialized
    torch_dist.is_initialized = lambda: False
    try:
        yield
    finally:
        torch_dist.is_initialized = is_initialized


def build(cfg: Config, args: argparse.Namespace, out: Path) -> Source:
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
    names = dataset.metainfo.get('classes')
    MessageHub.get_current_instance().update_info('dataset_meta', dataset.metainfo)
    name = args.name
    asked, problems = wanted(distiller.requests_of(name), distiller.sources)
    for loss, problem in problems.items():
        say(f"{loss}: left to the live teacher, with store_miss='live': {problem}")
    if asked is None:
        raise NothingToStoreError(
            [
                f'model.losses: no store answers any of them: {"; ".join(problems.values()) or "there is none"}'
            ]
        )
    if args.top is not None and asked.top is not None:
        asked |= Holding(args.top)
    asked |= Holding(0 if asked.top is not None else None, args.boxes)
    teacher = distiller.teachers[name]
    head = distiller.sources.get(head_source(name))
    config = (cfg.model.get('teachers') or {TEACHER: cfg.model.get('teacher')})[name]['config']
    key = (
        teacher_key(teacher, config, distiller.student)
        | class_key(distiller.class_map(name), head.num_classes, names)
        | data_key(dataset, cfg)
    )
    loader = cfg.train_dataloader
    return Source(
        distiller,
        name,
        dataset,
        loader.get('num_workers', 0),
        args.batch_size or loader.get('batch_size') or 1,
        asked,
        key,
    )


def make(source: Source, args: argparse.Namespace, out: Path) -> None:
    """Write the shards that are missing, each process its own, and then the manifest."""
    holding = source.holding
    if get_rank() == 0:
        holding = start(source, out)
    barrier()
    source.holding = holding = all_gather_object(holding)[0]
    shard_key = source.key | {'holding': asdict(holding)}
    size = args.shard_samples
    firsts = range(0, source.items, size)
    mine = list(enumerate(firsts))[get_rank() :: get_world_size()]
    found: list[Shard] = []
    missing: list[tuple[int, range]] = []
    for number, first in mine:
        items = range(first, min(first + size, source.items))
        shard = find_shard(out, number, first, len(items), shard_key)
        if shard is None:
            missing.append((number, items))
        else:
            found.append(shard)
    if missing:
        (out / 'manifest.json').unlink(missing_ok=True)  # from here on the store is not finished
        found += write(source, out, missing, shard_key)
    shards = sorted(
        (shard for part in all_gather_object(found) for shard in part),
        key=lambda shard: shard.first,
    )
    if get_rank() == 0:
        for path in out.glob('shard-*.safetensors'):
            if path.name not in {shard.file for shard in shards}:
                path.unlink()
        manifest = Manifest(source.key, holding, len(source.dataset), source.dataset.views, shards)
        manifest.save(out)
        print(describe(manifest, out))
        views = f"dict(type='mmkd.SeededViews', views={manifest.views}, seed={source.dataset.seed}, dataset=...)"
        print(f'To use it: model.teacher.store={str(out)!r}, train_dataloader.dataset={views}')
    barrier()


def start(source: Source, out: Path) -> Holding:
    """Look at what the folder holds; how much is to be kept.

    Raises:
        PreflightError: Something else.
    """
    for left in out.glob('.*.safetensors.*'):  # of a run that was killed
        left.unlink()
    try:
        before = Manifest.load(out)
    except StoreError:
        strange = [
            path.name
            for path in out.iterdir()
            if not path.name.startswith(('.', 'shard-', 'manifest.json'))
        ]
        if strange:
            raise PreflightError(
                [f'--out: {out} holds other things ({strange[0]}): give a new folder']
            ) from None
        return source.holding
    try:
        check_key(before.key, source.key, f'--out: {out}')
    except StoreError as error:
        raise PreflightError([f'{error}, in another folder']) from None
    held, asked = before.holding.positives, source.holding.positives
    if held and asked and held != asked:
        raise PreflightError(
            [
                f'--out: {out} holds the positives of assignment {held}; those of {asked} would replace them: '
                'give a new folder'
            ]
        )
    return before.holding | source.holding


def write(
    source: Source, out: Path, missing: Sequence[tuple[int, range]], key: dict[str, Any]
) -> list[Shard]:
    """Compute and write shards.

    Raises:
        PreflightError: They do not fit on the disk.
    """
    total = sum(len(items) for _, items in missing)
    batches = [
        list(items[at : at + source.batch_size])
        for _, items in missing
        for at in range(0, len(items), source.batch_size)
    ]
    began, done, written = time.monotonic(), 0, []
    waiting = list(missing)
    samples: list[Sample] = []
    for found in source.load(batches):
        if not done:
            check_space(found, total, out, time.monotonic() - began)
        samples += found
        done += len(found)
        number, items = waiting[0]
        if len(samples) == len(items):
            written.append(write_shard(out, number, items[0], samples, key))
            waiting.pop(0)
            samples = []
            left = (time.monotonic() - began) / done * (total - done)
            say(f'{done} of {total} samples, {left / 60:.1f} min left')
    return written


def check_space(first: Sequence[Sample], total: int, out: Path, seconds: float) -> None:
    """Estimate the store's size and time from its first samples.

    Raises:
        PreflightError: The disk has less space.
    """
    size = sum(
        part.numel() * part.element_size()
        for sample in first
        for parts in sample
        for part in parts.values()
    )
    needed = int(size / len(first) * total * get_world_size())
    free = shutil.disk_usage(out).free
    hours = seconds / len(first) * total / 3600
    say(
        f'{total * get_world_size()} samples: about {needed / 2**20:.1f} MiB, {hours:.2f} hours; '
        f'{free / 2**20:.0f} MiB are free'
    )
    if needed > free:
        raise PreflightError(
            [
                f'--out: {out} has {free / 2**20:.0f} MiB free, the store needs about {needed / 2**20:.0f} MiB: give '
                'another folder, fewer --views, or a smaller k of the samplers'
            ]
        )


def verify(source: Source, store: Store, count: int) -> int:
    """Compute some samples again and compare; the exit code."""
    store.check(source.key)
    source.holding = store.manifest.holding
    chosen = random.Random().sample(range(source.items), min(count, source.items))
    worst = 0.0
    for item, ((rows, single),) in zip(
        chosen, source.load([[item] for item in chosen]), strict=True
    ):
        view, index = divmod(item, len(source.dataset))
        kept, kept_single = store.read(index, view)
        difference = apart(rows, kept) if same_pixels(single, kept_single) else float('inf')
        if difference > 0.02:
            print(f'view {view} of sample {index} differs from the store by {difference:.3g}')
        worst = max(worst, difference)
    print(f'{len(chosen)} samples compared: they differ by at most {worst:.3g}')
    return int(worst > 0.02)


def same_pixels(ours: StoredRows, theirs: StoredRows) -> bool:
    """Whether two samples show the same."""
    return bool((ours['probe'].float() - theirs['probe'].float()).abs().max() <= 1)


def apart(ours: StoredRows, theirs: StoredRows) -> float:
    """The largest difference of logits, relative to 1 + their size; infinite where other places were picked."""
    if 'places' in ours:
        here, there = (
            [tuple(place) for place in part['places'].tolist()] for part in (ours, theirs)
        )
        common = sorted(set(here) & set(there))
        if len(common) < 0.9 * len(here):
            return float('inf')
        pick = [[part.index(place) for place in common] for part in (here, there)]
    else:
        pick = [list(range(len(part['logits']))) for part in (ours, theirs)]
    a, b = (part['logits'][at].float() for part, at in zip((ours, theirs), pick, strict=True))
    return float(((a - b).abs() / (1 + b.abs())).max())


def describe(manifest: Manifest, folder: Path) -> str:
    """A store in a few lines."""
    size = sum(shard.bytes for shard in manifest.shards)
    rows = sum(shard.rows for shard in manifest.shards)
    lines = [
        f'{folder}: {manifest.holding}; {manifest.views} views of {manifest.samples} samples, {rows} rows in '
        f'{len(manifest.shards)} files, {size / 2**20:.1f} MiB; each image padded as if it were alone'
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
