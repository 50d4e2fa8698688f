"""Named sets of object classes to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from mmkd.datasets import digits
from mmkd.datasets.contours import Contours
from mmkd.datasets.outlines import SHAPES

Split = Literal['train', 'val', 'test']

CLASSES = tuple(SHAPES)
"""The ten classes of the set 'shapes', in the order of their ids 1 to 10."""

TEXTURES = ('plain', 'stripes', 'checks')
"""The patterns that distinguish classes of the set 'textured'."""


@dataclass(frozen=True)
class Finish:
    """The name of an object's pattern, and its ``hue`` in [0, 1), or None for any."""

    hue: float | None
    pattern: str


@dataclass(frozen=True)
class Category:
    """An object class: how its outline is drawn and, if the class depends on it, its finish.

    ``outline(rng)`` returns contours of any size around the origin; the scene scales, rotates and
    places them. With ``finish=None`` colour and pattern are random. An ``upright`` object is only
    tilted a little, because a digit may be another one upside down, and fits into the image.
    """

    id: int
    name: str
    outline: Callable[[np.random.Generator], Contours]
    finish: Finish | None = None
    upright: bool = False


@dataclass(frozen=True)
class ObjectSet:
    """A named set of classes.

    Attributes:
        categories: the classes of a split in the order of their labels. All splits have the same ids and
            names, but may be drawn from different originals.
        supercategory: their supercategory in COCO's annotations.
        photographs: for a set of given images: those of a split, (N, H, W) uint8, and their labels, (N,).
        photograph_size: the width in pixels that they are enlarged to by default.
    """

    categories: Callable[[Split], tuple[Category, ...]]
    supercategory: str = 'shape'
    photographs: Callable[[Split], tuple[np.ndarray, np.ndarray]] | None = None
    photograph_size: int = 16

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names in the order of their labels."""
        return tuple(category.name for category in self.categories('train'))


def _always(categories: tuple[Category, ...]) -> Callable[[Split], tuple[Category, ...]]:
    return lambda split: categories


@cache
def _digits(split: Split) -> tuple[Category, ...]:
    return tuple(
        Category(digit + 1, str(digit), digits.outline_of(digit, split), upright=True)
        for digit in range(10)
    )


# fmt: off
_COCO_NAMES = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat',
    'traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog',
    'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe', 'backpack', 'umbrella',
    'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball', 'kite',
    'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket', 'bottle',
    'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple', 'sandwich',
    'orange', 'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch',
    'potted plant', 'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote',
    'keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink', 'refrigerator', 'book',
    'clock', 'vase', 'scissors', 'teddy bear', 'hair drier', 'toothbrush',
)
# fmt: on
_COCO_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = tuple(i for i in range(1, 91) if i not in _COCO_UNUSED_IDS)
_FINISHES = tuple(
    Finish(hue, pattern) for hue in (0.0, 0.15, 0.4, 0.63) for pattern in ('plain', 'stripes')
)

OBJECT_SETS: dict[str, ObjectSet] = {
    'shapes': ObjectSet(
        _always(
            tuple(
                Category(i, name, outline)
                for i, (name, outline) in enumerate(SHAPES.items(), start=1)
            )
        )
    ),
    'textured': ObjectSet(
        _always(
            tuple(
                Category(
                    id=1 + i,
                    name=f'{TEXTURES[i % len(TEXTURES)]}_{CLASSES[i // len(TEXTURES)]}',
                    outline=SHAPES[CLASSES[i // len(TEXTURES)]],
                    finish=Finish(None, TEXTURES[i % len(TEXTURES)]),
                )
                for i in range(len(CLASSES) * len(TEXTURES))
            )
        )
    ),
    'digits': ObjectSet(_digits, 'digit', digits.photographs),
    'coco80': ObjectSet(
        _always(
            tuple(
                Category(
                    id=_COCO_IDS[i],
                    name=_COCO_NAMES[i],
                    outline=SHAPES[CLASSES[i // len(_FINISHES)]],
                    finish=_FINISHES[i % len(_FINISHES)],
                )
                for i in range(len(_COCO_NAMES))
            )
        )
    ),
}
"""The sets by name."""
