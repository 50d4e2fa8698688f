"""A teacher's outputs on disk: shards of rows, and a manifest that describes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mmkd.checkpoints import written_whole
from mmkd.structures import Holding, StoredRows

FORMAT = 1
MANIFEST = 'manifest.json'
_OF_SAMPLE = 'sample.'
"""Prefix of tensors that have one row per sample."""
_ABOUT = 'mmkd'
_OFFSETS = f'{_OF_SAMPLE}offsets'


class StoreError(RuntimeError):
    """A store is missing, damaged, or made for something else; the message names the field and the fix."""


@dataclass(frozen=True)
class Shard:
    """A file of a store: ``items`` consecutive samples, starting with number ``first``, in ``rows`` rows."""

    file: str
    first: int
    items: int
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a store holds, and what it was made for.

    The number of a sample in a store is ``view * samples + index``.

    Attributes:
        key: Field to value, all of which must be the same in the run that uses the store.
        holding: How much is kept of a sample.
        samples: Number of samples of the data set.
        views: Number of views of each sample.
        shards: The files, in the order of their samples.
    """

    key: Mapping[str, Any]
    holding: Holding
    samples: int
    views: int
    shards: Sequence[Shard]

    def save(self, folder: Path) -> None:
        """Write the manifest atomically."""
        content = {'format': FORMAT, **asdict(self)}
        content['checksum'] = digest(content)
        write_whole(folder / MANIFEST, json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest.

        Raises:
            StoreError: There is none, it is damaged, or it has another format.
        """
        try:
            content = json.loads((folder / MANIFEST).read_text('utf-8'))
            checksum = content.pop('checksum')
        except FileNotFoundError:
            what = 'has no manifest.json: it is not finished' if folder.is_dir() else 'is no folder'
            raise StoreError(
                f'model.teacher.store: {folder} {what}: make it, or go on, with tools/cache_teacher.py'
            ) from None
        except (ValueError, KeyError, AttributeError) as error:
            raise StoreError(_damaged(folder / MANIFEST, error)) from None
        if checksum != digest(content):
            raise StoreError(_damaged(folder / MANIFEST, 'its checksum differs'))
        if content['format'] != FORMAT:
            raise StoreError(
                f'model.teacher.store: {folder} has format {content["format"]}, this version reads {FORMAT}: make it '
                'again with tools/cache_teacher.py'
            )
        return cls(
            key=content['key'],
            holding=Holding(**content['holding']),
            samples=content['samples'],
            views=content['views'],
            shards=[Shard(**shard) for shard in content['shards']],
        )


class Store:
    """Reads a finished store. Files are mapped into memory; their checksum is verified when they are opened.

    Args:
        folder: The store's folder.

    Raises:
        StoreError: There is no store, or a file of it is missing or truncated.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        self._open: dict[int, tuple[Any, list[int]]] = {}
        for shard in self.manifest.shards:
            path = self.folder / shard.file
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                raise StoreError(_damaged(path, 'the file is missing'))
            if size != shard.bytes:
                raise StoreError(_damaged(path, f'it has {size} bytes in place of {shard.bytes}'))

    def check(self, key: Mapping[str, Any]) -> None:
        """Check that the fields of ``key`` are the same as in the store's own key.

        Raises:
            StoreError: A field differs; the message names the first one.
        """
        check_key(self.manifest.key, key, f'model.teacher.store: {self.folder}')

    def read(self, index: int, view: int) -> tuple[StoredRows, StoredRows]:
        """The rows stored of a sample, and the tensors that it has only one of.

        Raises:
            StoreError: The store has no such sample, or the file is damaged.
        """
        manifest = self.manifest
        if not (0 <= index < manifest.samples and 0 <= view < manifest.views):
            raise StoreError(
                f'model.teacher.store: {self.folder} holds {manifest.views} views of {manifest.samples} samples, and '
                f'is asked for view {view} of sample {index}: train on the data that it was made from'
            )
        item = view * manifest.samples + index
        number = item // manifest.shards[0].items
        shard, offsets = self._shard(number)
        place = item - manifest.shards[number].first
        start, end = offsets[place : place + 2]
        rows, single = {}, {}
        for name in shard.keys():  # noqa: SIM118 (no mapping)
            if not name.startswith(_OF_SAMPLE):
                rows[name] = shard.get_slice(name)[start:end]
            elif name != _OFFSETS:
                single[name.removeprefix(_OF_SAMPLE)] = shard.get_slice(name)[place]
        return rows, single

    def _shard(self, number: int) -> tuple[Any, list[int]]:
        """An open file, and the number of the first row of each of its samples."""
        if number not in self._open:
            shard = self.manifest.shards[number]
            path = self.folder / shard.file
            try:
                with path.open('rb') as file:
                    found = hashlib.file_digest(file, 'sha256').hexdigest()
                if found != shard.sha256:
                    raise StoreError(_damaged(path, 'its checksum differs'))
                opened = safe_open(path, framework='pt')
            except (OSError, SafetensorError) as error:
                raise StoreError(_damaged(path, error)) from None
            self._open[number] = opened, opened.get_tensor(_OFFSETS).tolist()
        return self._open[number]

    def __deepcopy__(self, memo: dict[int, Any]) -> Store:
        """Itself: copies of a teacher read the same files."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files, which another process opens itself."""
        return {**vars(self), '_open': {}}


def write_shard(
    folder: Path,
    number: int,
    first: int,
    samples: Sequence[tuple[StoredRows, StoredRows]],
    key: Mapping[str, Any],
) -> Shard:
    """Write a file of a store atomically.

    Args:
        folder: The store's folder.
        number: Number of the file.
        first: Number of the first sample.
        samples: The rows of each sample, and the tensors that it has only one of.
        key: The store's key.

    Raises:
        OSError: The disk is full or not writable.
    """
    counts = [len(next(iter(rows.values()))) for rows, _ in samples]
    tensors = {name: torch.cat([rows[name] for rows, _ in samples]) for name in samples[0][0]}
    for name in samples[0][1]:
        tensors[f'{_OF_SAMPLE}{name}'] = torch.stack([single[name] for _, single in samples])
    tensors[_OFFSETS] = torch.tensor([0, *counts]).cumsum(0)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    # One entry: the order of several differs from process to process.
    content = save(tensors, {_ABOUT: _about(key, first, len(samples), _body(save(tensors)))})
    file = f'shard-{number:05d}.safetensors'
    write_whole(folder / file, content)
    return Shard(
        file,
        first,
        len(samples),
        sum(counts),
        len(content),
        hashlib.sha256(content).hexdigest(),
    )


def find_shard(
    folder: Path, number: int, first: int, items: int, key: Mapping[str, Any]
) -> Shard | None:
    """The file of these samples from an earlier run; None if it is missing, incomplete, or made for something else."""
    path = folder / f'shard-{number:05d}.safetensors'
    try:
        content = path.read_bytes()
        with safe_open(path, framework='pt') as file:
            about = (file.metadata() or {}).get(_ABOUT)
            rows = int(file.get_tensor(_OFFSETS)[-1])
    except (OSError, SafetensorError):
        return None
    if about != _about(key, first, items, _body(content)):
        return None
    return Shard(path.name, first, items, rows, len(content), hashlib.sha256(content).hexdigest())


def check_key(stored: Mapping[str, Any], wanted: Mapping[str, Any], store: str) -> None:
    """Check that all fields of ``wanted`` have the same value in a store's key.

    Raises:
        StoreError: One differs.
    """
    for field, value in wanted.items():
        # Compared as JSON, which turns tuples into lists.
        if json.dumps(stored.get(field), sort_keys=True) != json.dumps(value, sort_keys=True):
            raise StoreError(
                f'{store} was made for something else: {field}: the store has {_short(stored.get(field))}, this run '
                f'{_short(value)}: train with what it was made with, or make another with tools/cache_teacher.py'
            )


def digest(content: Any) -> str:
    """A hash of anything that JSON can represent."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: it has its name only once all of it is on disk."""
    with written_whole(path) as file:
        file.write(content)
    with _opened(path.parent) as folder:
        os.fsync(folder)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f'{text[:120]}...'


def _about(key: Mapping[str, Any], first: int, items: int, body: bytes) -> str:
    """What a shard says about itself, so that it can be recognised without a manifest."""
    return f'{digest(key)} {first} {items} {hashlib.sha256(body).hexdigest()}'


def _body(content: bytes) -> bytes:
    """The bytes of the tensors, which follow the header and its length."""
    return content[8 + int.from_bytes(content[:8], 'little') :]


def _damaged(path: Path, reason: object) -> str:
    return f'model.teacher.store: {path} is damaged ({reason}): run tools/cache_teacher.py again, which repairs it'
