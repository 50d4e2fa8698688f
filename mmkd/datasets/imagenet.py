"""ImageNet's folder layout, for classification."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from typing_extensions import override

from mmkd.datasets.folders import Info, Layout, save_image, write_images
from mmkd.datasets.objects import OBJECT_SETS, Split
from mmkd.datasets.scenes import draw_object

_STREAM = {'train': 2, 'val': 3, 'test': 5}  # Detection has the others: no image is drawn for both.


class ImageNetLayout(Layout):
    """``{train,val,test}/CLASS/NUMBER.png`` and ``meta/{train,val,test}.txt``, as MMPretrain's ``ImageNet`` reads them.

    Their lines are ``CLASS/NUMBER.png LABEL``. ``meta/classes.txt`` lists the classes in the order of their labels,
    ``meta/{train,val,test}.json`` the arguments of a split. Image i of a drawn set shows class i mod C, so that the
    numbers of images per class differ by one at most.
    """

    version = '2'
    entries = frozenset({'train', 'val', 'test', 'meta'})
    smallest = 8

    @override
    def write(
        self, folder: Path, split: Split, info: Info, workers: int, say: Callable[[str], None]
    ) -> None:
        names = OBJECT_SETS[info['categories']].names
        for name in names:
            (folder / split / name).mkdir(parents=True)
        meta = folder / 'meta'
        meta.mkdir(exist_ok=True)
        draw = partial(
            _write_image, folder / split, split, info['size'], info['seed'], info['categories']
        )
        lines = write_images(draw, info['images'], workers, split, say)
        (meta / 'classes.txt').write_text(''.join(f'{name}\n' for name in names))
        (meta / f'{split}.txt').write_text(''.join(f'{line}\n' for line in lines))
        (meta / f'{split}.json').write_text(json.dumps(info, indent=2) + '\n')

    @override
    def read_info(self, folder: Path, split: Split) -> Info:
        try:
            info = json.loads((folder / 'meta' / f'{split}.json').read_text())
        except (OSError, ValueError):
            return {}
        return info if isinstance(info, dict) else {}

    @override
    def count_images(self, folder: Path, split: Split) -> int:
        return sum(1 for _ in (folder / split).glob('*/*.png'))

    def split_name(self, split: Split) -> str:
        """``train``, ``val`` or ``test``."""
        return split


def _write_image(
    folder: Path, split: Split, size: int, seed: int, categories: str, index: int
) -> str:
    """Save image ``index`` of a split; return its line in the meta file."""
    objects = OBJECT_SETS[categories]
    if objects.photographs is not None:
        images, labels = objects.photographs(split)
        label = int(labels[index])
        pixels = cv2.resize(images[index], (size, size), interpolation=cv2.INTER_CUBIC)
    else:
        label = index % len(objects.names)
        rng = np.random.default_rng([seed, _STREAM[split], index])
        pixels = draw_object(rng, size, objects.categories(split)[label])
    name = f'{objects.names[label]}/{index:06d}.png'
    save_image(folder / name, pixels)
    return f'{name} {label}'
