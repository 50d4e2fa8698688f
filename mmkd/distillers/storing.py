"""Making a store: what a teacher outputs on all samples and views is computed once, and written in whole files."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size
from torch import Tensor
from torch.utils.data import DataLoader

from mmkd.distillers.distiller import Distiller
from mmkd.structures import TEACHER, Holding, StoredRows, head_source
from mmkd.teachers import FrozenTeacher, StoreError
from mmkd.teachers.store import Manifest, Shard, Store, check_key, find_shard, write_shard
from mmkd.teachers.store_key import class_key, probe, teacher_key

Sample = tuple[StoredRows, StoredRows]
"""The rows that are kept of a sample, and what there is one of."""
MIB = 2**20
MOST_DIFFERENT = 0.02
"""By how much logits that are computed again may differ, relative to 1 + their size."""


def pair_key(
    distiller: Distiller, config: Any, names: Sequence[str] | None, teacher: str = TEACHER
) -> dict[str, Any]:
    """The fields of a store's key that follow from student and teacher.

    Args:
        distiller: The pair.
        config: The teacher's config.
        names: Classes of the training data.
        teacher: Name of the teacher.
    """
    network = distiller.teachers[teacher]
    assert isinstance(network, FrozenTeacher)
    classes = distiller.sources.get(head_source(teacher)).num_classes
    return teacher_key(network, config, distiller.student) | class_key(
        distiller.class_map(teacher), classes, names
    )


@torch.no_grad()
def kept_of(
    distiller: Distiller,
    inputs: Tensor,
    data_samples: list[Any],
    holding: Holding,
    teacher: str = TEACHER,
) -> list[Sample]:
    """What a store keeps of each image of a batch that the data preprocessor returned."""
    with _alone():
        rows = distiller.teacher_rows(inputs, data_samples, holding, teacher)
    pixels = probe(inputs, data_samples, distiller.data_preprocessor).half().cpu()
    canvas = torch.tensor(inputs.shape[-2:], dtype=torch.int32)
    return [
        ({name: part.cpu() for name, part in own.items()}, {'probe': seen, 'canvas': canvas})
        for own, seen in zip(rows, pixels, strict=True)
    ]


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
        say: Takes a line of progress.
    """

    distiller: Distiller
    teacher: str
    dataset: Any
    workers: int
    batch_size: int
    holding: Holding
    key: dict[str, Any]
    say: Callable[[str], None]

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

    def compute(self, samples: Sequence[Any]) -> list[Sample]:
        """What is kept of these samples; each is padded as if it were alone, so that it does not depend on others."""
        kept: dict[int, Sample] = {}
        shapes = [tuple(sample['inputs'].shape) for sample in samples]
        for shape in sorted(set(shapes)):
            places = [place for place, own in enumerate(shapes) if own == shape]
            data = pseudo_collate([samples[place] for place in places])
            data = self.distiller.data_preprocessor(data, True)
            found = kept_of(
                self.distiller, data['inputs'], data['data_samples'], self.holding, self.teacher
            )
            kept |= zip(places, found, strict=True)
        return [kept[place] for place in range(len(samples))]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let nothing in the block wait for other processes, which have other numbers of batches.

    The student's own loss would, whose assigner says which samples are positive: it averages its divisor over them.
    """
    is_initialized = torch_dist.is_initialized
    torch_dist.is_initialized = lambda: False
    try:
        yield
    finally:
        torch_dist.is_initialized = is_initialized


def make_store(source: Source, out: Path, shard_samples: int) -> Manifest:
    """Write the files that are missing, each process its own, and then the manifest.

    Args:
        source: What the store is made from.
        out: Its folder. What an earlier call wrote of the same source is kept.
        shard_samples: Samples in a file.

    Raises:
        StoreError: The folder holds something else, or the store does not fit on the disk.
        OSError: The disk is full, or cannot be written to; what is whole is kept.
    """
    holding = _holding_in(source, out) if get_rank() == 0 else source.holding
    barrier()
    source.holding = holding = all_gather_object(holding)[0]
    shard_key = source.key | {'holding': asdict(holding)}
    firsts = range(0, source.items, shard_samples)
    found: list[Shard] = []
    missing: list[tuple[int, range]] = []
    for number, first in list(enumerate(firsts))[get_rank() :: get_world_size()]:
        items = range(first, min(first + shard_samples, source.items))
        shard = find_shard(out, number, first, len(items), shard_key)
        if shard is None:
            missing.append((number, items))
        else:
            found.append(shard)
    if missing:
        (out / 'manifest.json').unlink(missing_ok=True)  # from here on the store is not finished
        found += _write(source, out, missing, shard_key)
    everyones = itertools.chain.from_iterable(all_gather_object(found))
    shards = sorted(everyones, key=lambda shard: shard.first)
    manifest = Manifest(source.key, holding, len(source.dataset), source.dataset.views, shards)
    if get_rank() == 0:
        for path in out.glob('shard-*.safetensors'):
            if path.name not in {shard.file for shard in shards}:
                path.unlink()
        manifest.save(out)
    barrier()
    return manifest


def verify_store(source: Source, store: Store, count: int) -> bool:
    """Compute some random samples again, and say which differ from the store.

    Returns:
        Whether none does.
    """
    store.check(source.key)
    source.holding = store.manifest.holding
    chosen = random.Random().sample(range(source.items), min(count, source.items))
    worst = 0.0
    for item, ((rows, single),) in zip(
        chosen, source.load([[item] for item in chosen]), strict=True
    ):
        view, index = divmod(item, len(source.dataset))
        kept, kept_single = store.read(index, view)
        pixels = (single['probe'].float() - kept_single['probe'].float()).abs().max()
        difference = _apart(rows, kept) if pixels <= 1 else float('inf')
        if difference > MOST_DIFFERENT:
            source.say(f'view {view} of sample {index} differs from the store by {difference:.3g}')
        worst = max(worst, difference)
    source.say(f'{len(chosen)} samples compared: they differ by at most {worst:.3g}')
    return worst <= MOST_DIFFERENT


def _holding_in(source: Source, out: Path) -> Holding:
    """Look at what the folder holds; how much is to be kept."""
    for left in out.glob('.*.safetensors.*'):  # of a run that was killed
        left.unlink()
    try:
        before = Manifest.load(out)
    except StoreError:
        ours = ('.', 'shard-', 'manifest.json')
        strange = [path.name for path in out.iterdir() if not path.name.startswith(ours)]
        if strange:
            raise StoreError(
                f'store: {out} holds other things ({strange[0]}): give a new folder'
            ) from None
        return source.holding
    try:
        check_key(before.key, source.key, f'store: {out}')
    except StoreError as error:
        raise StoreError(f'{error}, in another folder') from None
    held, asked = before.holding.positives, source.holding.positives
    if held and asked and held != asked:
        raise StoreError(
            f'store: {out} holds the positives of assignment {held}; those of {asked} would replace them: give a new '
            'folder'
        )
    return before.holding | source.holding


def _write(
    source: Source, out: Path, missing: Sequence[tuple[int, range]], key: dict[str, Any]
) -> list[Shard]:
    """Compute and write files."""
    total = sum(len(items) for _, items in missing)
    batches = [
        list(items[at : at + source.batch_size])
        for _, items in missing
        for at in range(0, len(items), source.batch_size)
    ]
    began, done, written = time.monotonic(), 0, []
    waiting = iter(missing)
    number, items = next(waiting)
    samples: list[Sample] = []
    for found in source.load(batches):
        if not done:
            _check_space(source, found, total, out, time.monotonic() - began)
        samples += found
        done += len(found)
        if len(samples) == len(items):
            written.append(write_shard(out, number, items[0], samples, key))
            number, items = next(waiting, (number, items))
            samples = []
            left = (time.monotonic() - began) / done * (total - done)
            source.say(f'{done} of {total} samples, {left / 60:.1f} min left')
    return written


def _check_space(
    source: Source, first: Sequence[Sample], total: int, out: Path, seconds: float
) -> None:
    """Estimate the store's size and time from its first samples."""
    parts = [part for sample in first for kept in sample for part in kept.values()]
    size = sum(part.numel() * part.element_size() for part in parts)
    everywhere = total * get_world_size()
    needed = size / len(first) * everywhere / MIB
    free = shutil.disk_usage(out).free / MIB
    hours = seconds / len(first) * total / 3600
    source.say(
        f'{everywhere} samples: about {needed:.1f} MiB, {hours:.2f} hours; {free:.0f} MiB are free'
    )
    if needed > free:
        raise StoreError(
            f'store: {out} has {free:.0f} MiB free, the store needs about {needed:.0f} MiB: give another folder, fewer '
            'views, or a smaller k of the samplers'
        )


def _apart(ours: StoredRows, theirs: StoredRows) -> float:
    """The largest difference of logits, relative to 1 + their size; infinite where other places were picked."""
    rows = [[*range(len(part['logits']))] for part in (ours, theirs)]
    if 'places' in ours:
        here, there = ([*map(tuple, part['places'].tolist())] for part in (ours, theirs))
        common = sorted(set(here) & set(there))
        if len(common) < 0.9 * len(here):
            return float('inf')
        rows = [[part.index(place) for place in common] for part in (here, there)]
    a, b = (part['logits'][at].float() for part, at in zip((ours, theirs), rows, strict=True))
    differences = (a - b).abs() / (1 + b.abs())
    # An image without positives may have no rows.
    return float(differences.max()) if differences.numel() else 0.0
