"""Writes folders of data atomically, in any layout of files."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2

from mmkd.datasets.objects import Split

GENERATOR = 'mmkd.datasets.shapes'
"""Recorded in every set; a folder without it is never changed."""

Info = dict[str, Any]
"""What a split was made of: generator, version and arguments."""


class Layout(ABC):
    """The layout of a set on disk, for one task.

    Attributes:
        version: version of the drawings; increase it with every change that affects a file's bytes.
        entries: names of the entries in a set's folder.
        smallest: smallest width of an image in pixels.
    """

    version: ClassVar[str]
    entries: ClassVar[frozenset[str]]
    smallest: ClassVar[int]

    def info(self, images: int, size: int, seed: int, categories: str) -> Info:
        """The record of a split."""
        return {
            'description': 'Generated shapes for demonstration, tests and method comparison',
            'generator': GENERATOR,
            'version': self.version,
            'seed': seed,
            'size': size,
            'categories': categories,
            'images': images,
        }

    @abstractmethod
    def write(
        self, folder: Path, split: Split, info: Info, workers: int, say: Callable[[str], None]
    ) -> None:
        """Write a split into ``folder``, which may hold others."""

    @abstractmethod
    def read_info(self, folder: Path, split: Split) -> Info:
        """The record of the split that a folder holds; empty if there is none."""

    @abstractmethod
    def count_images(self, folder: Path, split: Split) -> int:
        """The number of image files of a split."""

    @abstractmethod
    def split_name(self, split: Split) -> str:
        """The layout's name of a split."""


def write_folder(
    out: Path,
    layout: Layout,
    infos: dict[Split, Info],
    workers: int | None,
    say: Callable[[str], None],
) -> None:
    """Write a set, unless ``out`` already holds exactly this one.

    It is written to a hidden folder beside ``out``, which is renamed to ``out`` at the end, so ``out`` is always
    complete. A set made by another version or with other arguments is replaced.

    Raises:
        FileExistsError: ``out`` holds files that are not of such a set.
    """
    difference = _difference(out, layout, infos)
    if difference is None:
        say(f'{out}: complete, nothing to do')
        return
    if out.exists():
        say(f'{out}: {difference}; making it')

    target = out.resolve()  # A link keeps pointing at the data.
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = Path(tempfile.mkdtemp(prefix=f'.{target.name}.partial-', dir=target.parent))
    try:
        started = time.perf_counter()
        content = partial_folder / 'content'  # mkdtemp's own folder is closed to other users.
        for split, info in infos.items():
            layout.write(content, split, info, workers or available_cores(), say)
        if target.exists():
            target.rename(partial_folder / 'replaced')
        content.rename(target)
        counts = ' + '.join(str(info['images']) for info in infos.values())
        say(f'{out}: {counts} images in {time.perf_counter() - started:.1f} s')
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def write_images(
    write: Callable[[int], Any],
    count: int,
    workers: int,
    split_name: str,
    say: Callable[[str], None],
) -> list[Any]:
    """What ``write(index)`` returns for each image in order, written by several processes."""
    results = []
    for result in _in_order(write, count, workers):
        results.append(result)
        if len(results) % 500 == 0 or len(results) == count:
            say(f'{split_name}: {len(results)} of {count} images')
    return results


def save_image(path: Path, pixels: Any, options: tuple[int, ...] = ()) -> None:
    """Write an image file.

    Raises:
        OSError: it could not be written.
    """
    if not cv2.imwrite(str(path), pixels, options):
        raise OSError(f'{path}: the image could not be written')


def available_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_order(write: Callable[[int], Any], count: int, workers: int) -> Iterator[Any]:
    if workers == 1:
        yield from map(write, range(count))
        return
    with multiprocessing.Pool(workers, initializer=_start_worker) as pool:
        yield from pool.imap(write, range(count), chunksize=16)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle.
    # The pool ends its workers by it: a handler inherited from the parent could keep one alive, and the pool waiting.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)


def _difference(out: Path, layout: Layout, infos: dict[Split, Info]) -> str | None:
    """What sets the folder ``out`` apart from the wanted set; None if nothing does."""
    if not out.exists() or not any(out.iterdir()):
        return 'empty'
    found = {split: layout.read_info(out, split) for split in infos}
    strangers = {path.name for path in out.iterdir()} - layout.entries
    # An earlier version wrote fewer splits: one without a record is another's only if it has images.
    there = {split for split, info in found.items() if info or layout.count_images(out, split)}
    if strangers or not there or any(found[s].get('generator') != GENERATOR for s in there):
        raise FileExistsError(
            f'{out}: the folder holds files that this generator did not write for this task '
            f'({", ".join(sorted(strangers)[:3]) or "its annotations"}): give a new or an empty one'
        )
    for split, info in infos.items():
        name = layout.split_name(split)
        for key, value in info.items():
            if found[split].get(key) != value:
                return f'{name} has {key} {found[split].get(key)!r} instead of {value!r}'
        files = layout.count_images(out, split)
        if files != info['images']:
            return f'{name} has {files} instead of {info["images"]} image files'
    return None
