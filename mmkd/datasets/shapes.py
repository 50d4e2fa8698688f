"""Seeded generator of the embedded data: COCO's folder layout for detection, ImageNet's for classification.

It is data for demonstration, tests and the comparison of methods, not a benchmark to publish on.
The same arguments give the same files, whatever the number of workers; image ``i`` of a split is
the same in a set of ten images and in one of ten thousand. See ``docs/embedded_data.md``.

This package needs numpy and OpenCV only (and scikit-learn for the handwritten digits), so that a set is
written without loading PyTorch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmkd.datasets.coco import CocoLayout
from mmkd.datasets.folders import Layout, available_cores, write_folder
from mmkd.datasets.imagenet import ImageNetLayout
from mmkd.datasets.objects import OBJECT_SETS, Split


@dataclass(frozen=True)
class Task:
    """What is made for a task where nothing else is said."""

    layout: Layout
    suffix: str
    categories: str
    train: int
    val: int
    size: int


TASKS = {
    'detection': Task(CocoLayout(), '', 'shapes', 4000, 500, 128),
    'classification': Task(ImageNetLayout(), '_cls', 'textured', 6000, 1500, 32),
}
"""What the data can be for."""


def default_folder(task: str, categories: str) -> str:
    """Where the recipes expect a set: ``data/OBJECTS``, or ``data/OBJECTS_cls`` for classification."""
    return f'data/{categories}{TASKS[task].suffix}'


def make_default_set(
    folder: str | os.PathLike[str], log: Callable[[str], None] | None = None
) -> Path:
    """Write the set that the recipes expect in a folder, such as ``data/shapes`` or ``data/digits_cls``.

    Args:
        folder: What :func:`default_folder` gives for one of the sets.
        log: See :func:`make_shapes`.

    Returns:
        The folder's path.

    Raises:
        ValueError: It is the folder of none of the sets.
    """
    name = os.path.normpath(folder)
    for task in TASKS:
        for categories in OBJECT_SETS:
            if name == default_folder(task, categories):
                return make_shapes(name, categories=categories, log=log, task=task)
    raise ValueError(
        f'{folder}: this is the folder of none of the embedded sets: make the data first'
    )


def make_shapes(
    out: str | os.PathLike[str],
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    size: int | None = None,
    seed: int = 0,
    categories: str | None = None,
    workers: int | None = None,
    log: Callable[[str], None] | None = None,
    task: str = 'detection',
) -> Path:
    """Write a set for detection or classification, unless ``out`` already holds exactly this one.

    There are three splits: to train, to choose settings (val) and to report (test). For detection the files are
    ``annotations/instances_{train,val,test}2017.json`` and JPEG images in ``train2017/`` and so on; for classification
    ``meta/{train,val,test}.txt`` and PNG images in ``train/CLASS/`` and so on. They are
    written to a hidden folder beside ``out``, which is renamed to ``out`` at the end, so ``out`` is always complete. A
    set made by another version or with other arguments is replaced.

    Args:
        out: Folder to write. It must be new, empty, or a set written by this function for this task.
        train: Number of training images; by default 4000 for detection, 6000 for classification (of the digits all
            1029).
        val: Number of validation images; by default 500 for detection, 1500 for classification (of the digits all
            386).
        test: Number of test images; by default as many as validation images (of the digits all 382).
        size: Width and height of the images in pixels: at least 64 for detection (objects above COCO's 'large'
            bound, 96 x 96 px, need 112 or more), by default 128; at least 8 for classification, by default 32
            (digits 16).
        seed: Any integer >= 0.
        categories: 'shapes' (the ten of :data:`mmkd.datasets.objects.CLASSES`, the default for detection),
            'textured' (each of the ten plain, striped and checked: 30 classes, the default for classification),
            'digits' (scikit-learn's handwritten digits, see :mod:`mmkd.datasets.digits`: for classification
            the images as they are, enlarged, whatever the seed; for detection objects of their outlines) or 'coco80'
            (COCO's 80 names and ids, each one of the shapes in one of eight colour-and-pattern finishes).
        workers: Number of processes, by default the number of available cores. The
            files do not depend on it.
        log: Called with each line of progress; silent by default.
        task: 'detection' or 'classification'.

    Returns:
        The folder's path, as given.

    Raises:
        ValueError: An argument is out of range.
        FileExistsError: ``out`` holds files that this function did not write.
    """
    if task not in TASKS:
        raise ValueError(f'task must be one of {", ".join(TASKS)}, not {task!r}')
    defaults = TASKS[task]
    categories = defaults.categories if categories is None else categories
    if categories not in OBJECT_SETS:
        raise ValueError(f'categories must be one of {", ".join(OBJECT_SETS)}, not {categories!r}')
    given_images = task == 'classification' and OBJECT_SETS[categories].photographs is not None
    if size is None:
        size = OBJECT_SETS[categories].photograph_size if given_images else defaults.size
    counts: dict[Split, int] = {
        'train': _count('train', train, defaults.train, task, categories),
        'val': _count('val', val, defaults.val, task, categories),
    }
    counts['test'] = _count('test', test, counts['val'], task, categories)
    for name, value, least in (
        ('size', size, defaults.layout.smallest),
        ('seed', seed, 0),
        ('workers', 1 if workers is None else workers, 1),
    ):
        if value < least:
            raise ValueError(f'{name} must be at least {least}, not {value}')
    layout = defaults.layout
    infos = {split: layout.info(count, size, seed, categories) for split, count in counts.items()}
    out = Path(out)
    write_folder(out, layout, infos, workers, _ignore if log is None else log)
    return out


def _count(split: Split, count: int | None, default: int, task: str, categories: str) -> int:
    """The number of images of a split: all, where they are given."""
    photographs = OBJECT_SETS[categories].photographs
    if task == 'classification' and photographs is not None:
        default = len(photographs(split)[1])
        if count is not None and count > default:
            raise ValueError(
                f'{split} must be at most {default}, not {count}: there are no more {categories}'
            )
    count = default if count is None else count
    if count < 1:
        raise ValueError(f'{split} must be at least 1, not {count}')
    return count


def _ignore(line: str) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """The command `mmkd make-data`."""
    parser = argparse.ArgumentParser(
        prog='mmkd make-data',
        description='Write a small data set. For detection, in COCO layout: objects on textured backgrounds, with '
        'clutter, occlusion, small, medium and large objects, images without objects and crowd regions. For '
        'classification, in ImageNet layout: one object and clutter. Nothing is downloaded.',
        epilog='Same arguments, same files, whatever the number of workers. A folder that already '
        'holds the wanted set is left as it is; one made by another version or with other arguments '
        'is replaced; a folder with other files is an error. An interrupted run leaves nothing that '
        'looks complete. The data is meant for demonstration, tests and the comparison of '
        'methods, not as a benchmark to publish on.',
    )
    parser.add_argument(
        'out',
        nargs='?',
        help='folder to write (default: data/OBJECTS, for classification data/OBJECTS_cls: where the recipes '
        'expect them)',
    )
    parser.add_argument(
        '--task', choices=tuple(TASKS), default='detection', help='default: detection'
    )
    parser.add_argument(
        '--objects',
        '--categories',
        dest='categories',
        choices=tuple(OBJECT_SETS),
        help='shapes: ten shapes in five pairs of look-alikes, colour and pattern random (default for '
        'detection); textured: each of them plain, striped and checked, 30 classes (default for classification); '
        "digits: scikit-learn's handwritten digits, other writers in each split; coco80: COCO's "
        '80 names and ids, each a shape in one of eight finishes, to try a COCO recipe on',
    )
    parser.add_argument(
        '--train',
        type=int,
        metavar='N',
        help='training images (default: 4000 for detection, 6000 for classification, of digits all 1029)',
    )
    parser.add_argument(
        '--val',
        type=int,
        metavar='N',
        help='validation images (default: 500 for detection, 1500 for classification, of digits all 386)',
    )
    parser.add_argument(
        '--test',
        type=int,
        metavar='N',
        help='test images (default: as many as validation images, of digits all 382)',
    )
    parser.add_argument(
        '--size',
        type=int,
        metavar='PX',
        help='width and height of the images. Detection: at least 64, default 128; below 112 no object reaches '
        "COCO's large area. Classification: at least 8, default 32, digits 16",
    )
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N', help='random seed, 0 or more (default: 0)'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=available_cores(),
        metavar='N',
        help='processes; the files do not depend on it (default: %(default)s)',
    )
    given = vars(parser.parse_args(arguments))
    if given['categories'] is None:
        given['categories'] = TASKS[given['task']].categories
    if given['out'] is None:
        given['out'] = default_folder(given['task'], given['categories'])
    try:
        make_shapes(**given, log=partial(print, flush=True))
    except (ValueError, OSError) as error:
        parser.exit(2, f'{parser.prog}: {error}\n')
