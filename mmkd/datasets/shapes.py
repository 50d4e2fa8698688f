"""Seeded generator of the embedded detection data: ten shapes in COCO's folder layout.

It is data for demonstration, tests and the comparison of methods, not a benchmark to publish on.
The same arguments give the same files, whatever the number of workers; image ``i`` of a split is
the same in a set of ten images and in one of ten thousand. See ``docs/embedded_data.md``.

This module needs numpy and OpenCV only, so that a set is written without loading PyTorch.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

VERSION = '1'
"""Version of what is drawn: raise it with every change that changes a file's bytes."""

GENERATOR = 'mmkd.datasets.shapes'
SPLITS = ('train2017', 'val2017')

MIN_SIZE = 64
MIN_VISIBLE = 0.25
"""An object is kept if at least this part of its area is inside the image and unoccluded."""

_LARGE = 96
"""Objects of more than this many pixels squared are COCO's large ones."""

# First image id of each split and room for annotation ids per image: ids never clash between
# splits and do not depend on how many images there are. COCO's evaluation takes annotation
# id 0 for 'unmatched', hence nothing starts at 0.
_FIRST_IMAGE_ID = {'train2017': 1, 'val2017': 1_000_001}
_ANNOTATION_IDS_PER_IMAGE = 1000

_SUPERSAMPLING = 4
_FIXED_POINT_BITS = 4
_PLACEMENT_ATTEMPTS = 10
_JPEG_QUALITY = 95

Contours = list[np.ndarray]
"""Closed contours, each (N, 2) of (x, y), filled by the even-odd rule: outer contours run one way
round, holes the other, so that the signed areas add up to the filled area."""


@dataclass(frozen=True)
class Finish:
    """What an object is painted with: ``hue`` in [0, 1) and the name of a pattern."""

    hue: float
    pattern: str


@dataclass(frozen=True)
class Category:
    """An object class: how its outline is drawn and, where that is part of the class, its finish.

    ``outline(rng)`` returns contours of any size around the origin; the scene scales, rotates and
    places them. A set with other objects than shapes is a tuple of other categories.
    ``finish=None`` leaves colour and pattern to chance.
    """

    id: int
    name: str
    outline: Callable[[np.random.Generator], Contours]
    finish: Finish | None = None


@dataclass(frozen=True)
class Instance:
    """An annotated object: the pixels of it that can be seen, (H, W) bool."""

    category: Category
    visible: np.ndarray
    is_crowd: bool = False


def make_shapes(
    out: str | os.PathLike[str],
    train: int = 2000,
    val: int = 500,
    size: int = 128,
    seed: int = 0,
    categories: str = 'shapes',
    workers: int | None = None,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Write a COCO-layout detection set, unless ``out`` already holds exactly this one.

    The files are ``annotations/instances_{train,val}2017.json`` and JPEG images in ``train2017/``
    and ``val2017/``. They are written to a hidden sibling folder that takes the name ``out`` when
    all is done, so what has the name ``out`` is always complete. A set that another version or
    other arguments made is replaced.

    Args:
        out: Folder to write. It must be new, empty, or a set written by this function.
        train: Number of training images.
        val: Number of validation images.
        size: Width and height of the images in pixels, at least 64. Objects above COCO's 'large'
            bound (96 x 96 px) need 112 or more.
        seed: Any integer >= 0.
        categories: 'shapes' (the ten of :data:`CLASSES`) or 'coco80' (COCO's 80 names and ids,
            each one of the shapes in one of eight colour-and-pattern finishes).
        workers: Number of processes, by default the number of available cores. It has no
            influence on the files.
        log: Called with each line of progress; silent by default.

    Returns:
        The folder's path, as given.

    Raises:
        ValueError: An argument is out of its range.
        FileExistsError: ``out`` holds files that this function did not write.
    """
    out = Path(out)
    say = log if log is not None else _ignore
    _check_arguments(train, val, size, seed, categories, workers)
    counts = dict(zip(SPLITS, (train, val), strict=True))
    infos = {split: _info(counts[split], size, seed, categories) for split in SPLITS}
    difference = _difference(out, infos)
    if difference is None:
        say(f'{out}: complete, nothing to do')
        return out
    if out.exists():
        say(f'{out}: {difference}; making it')

    target = out.resolve()  # A link keeps pointing at the data.
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = Path(tempfile.mkdtemp(prefix=f'.{target.name}.partial-', dir=target.parent))
    try:
        started = time.perf_counter()
        content = partial_folder / 'content'  # mkdtemp's own folder is closed to other users.
        for split in SPLITS:
            _write_split(content, split, infos[split], workers or _available_cores(), say)
        if target.exists():
            target.rename(partial_folder / 'replaced')
        content.rename(target)
        say(f'{out}: {train} + {val} images in {time.perf_counter() - started:.1f} s')
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return out


def draw_scene(
    rng: np.random.Generator, size: int, categories: tuple[Category, ...], kind: str = 'mixed'
) -> tuple[np.ndarray, list[Instance]]:
    """Draw one image.

    Args:
        rng: The only source of chance.
        size: Width and height in pixels.
        categories: What to draw objects from, with equal probability.
        kind: 'mixed' (1 to 7 small and medium objects), 'large' (a large object behind up to 3
            others), 'crowd' (mixed, and a region of many tiny objects of one class) or 'empty'.

    Returns:
        The image, (size, size, 3) BGR uint8, and its objects from front to back.
    """
    layers, instances = _lay_out(rng, size, categories, kind)
    return _paint(rng, size, layers), instances


def polygons(mask: np.ndarray) -> list[list[int]] | None:
    """COCO polygons [x1, y1, x2, y2, ...] along the pixel edges of a mask, (H, W) bool.

    pycocotools rasterises them to exactly ``mask``. Returns None if the mask has a hole, which
    COCO's polygons cannot express.
    """
    # Contours run through pixel centres. With every pixel doubled, the outermost centres 2i and
    # 2i + 1 of pixel i stand for its edges i and i + 1.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[0, :, 3] >= 0).any():
        return None
    return [_corners((contour[:, 0] + 1) // 2).ravel().tolist() for contour in contours]


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed run-length encoding of a mask, (H, W) bool: column by column, from 0."""
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    return {'size': list(mask.shape), 'counts': [0, *counts] if flat[0] else counts}


# --- Outlines ------------------------------------------------------------------------------------


def _arc(
    radius: float, start: float = 0.0, stop: float = 2 * np.pi, points: int = 72
) -> np.ndarray:
    angle = np.linspace(start, stop, points, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _circle(rng: np.random.Generator) -> Contours:
    return [_arc(1.0)]


def _ellipse(rng: np.random.Generator) -> Contours:
    return [_arc(1.0) * np.array([rng.uniform(1.45, 2.2), 1])]


def _square(rng: np.random.Generator) -> Contours:
    return [_arc(1.0, points=4)]


def _rectangle(rng: np.random.Generator) -> Contours:
    width = rng.uniform(1.45, 2.2)
    return [np.array([(-width, -1), (width, -1), (width, 1), (-width, 1)], dtype=float)]


def _pentagon(rng: np.random.Generator) -> Contours:
    return [_arc(1.0, points=5)]


def _hexagon(rng: np.random.Generator) -> Contours:
    return [_arc(1.0, points=6)]


def _star(rng: np.random.Generator) -> Contours:
    radius = np.tile([1.0, rng.uniform(0.42, 0.55)], 5)
    return [_arc(1.0, points=10) * radius[:, None]]


def _cross(rng: np.random.Generator) -> Contours:
    arm = rng.uniform(0.26, 0.4)
    quarter = np.array([(1, -arm), (1, arm), (arm, arm)])
    turns = [(1, 0), (0, 1), (-1, 0), (0, -1)]  # (cos, sin) of the four quarter turns
    return [
        np.concatenate(
            [
                np.stack(
                    [c * quarter[:, 0] - s * quarter[:, 1], s * quarter[:, 0] + c * quarter[:, 1]],
                    1,
                )
                for c, s in turns
            ]
        )
    ]


def _ring(rng: np.random.Generator) -> Contours:
    return [_arc(1.0), _arc(rng.uniform(0.4, 0.62))[::-1]]


def _crescent(rng: np.random.Generator) -> Contours:
    # A unit disc without the disc of radius r at (d, 0); they meet at the angles +-a and +-b.
    d, r = rng.uniform(0.35, 0.55), rng.uniform(0.72, 0.88)
    a = np.arccos((1 + d * d - r * r) / (2 * d))
    b = np.arccos((1 - d * d - r * r) / (2 * d * r))
    outer = _arc(1.0, a, 2 * np.pi - a)
    inner = _arc(r, 2 * np.pi - b, b) + np.array([d, 0])
    return [np.concatenate([outer, inner])]


_OUTLINES: dict[str, Callable[[np.random.Generator], Contours]] = {
    'circle': _circle,
    'ellipse': _ellipse,
    'square': _square,
    'rectangle': _rectangle,
    'pentagon': _pentagon,
    'hexagon': _hexagon,
    'star': _star,
    'cross': _cross,
    'ring': _ring,
    'crescent': _crescent,
}

CLASSES = tuple(_OUTLINES)
"""The ten classes, in five pairs of look-alikes, in the order of their ids 1 to 10."""

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

CATEGORY_SETS: dict[str, tuple[Category, ...]] = {
    'shapes': tuple(
        Category(i, name, outline) for i, (name, outline) in enumerate(_OUTLINES.items(), start=1)
    ),
    'coco80': tuple(
        Category(
            id=_COCO_IDS[i],
            name=_COCO_NAMES[i],
            outline=_OUTLINES[CLASSES[i // len(_FINISHES)]],
            finish=_FINISHES[i % len(_FINISHES)],
        )
        for i in range(len(_COCO_NAMES))
    ),
}


# --- Layout: what is where, from front to back ---------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """Something to paint: how much of each pixel it covers, (H, W) uint8 with 255 for all."""

    coverage: np.ndarray
    finish: Finish | None = None

    @property
    def mask(self) -> np.ndarray:
        return self.coverage >= 128


def _lay_out(
    rng: np.random.Generator, size: int, categories: tuple[Category, ...], kind: str
) -> tuple[list[_Layer], list[Instance]]:
    layers = [_stroke(rng, size) for _ in range(rng.choice([0, 1, 2], p=[0.7, 0.2, 0.1]))]
    occupied = np.zeros((size, size), dtype=bool)
    for layer in layers:
        occupied |= layer.mask
    instances: list[Instance] = []

    if kind == 'crowd':
        category = categories[rng.integers(len(categories))]
        crowd_layers, visible = _crowd(rng, size, category, occupied)
        layers += crowd_layers
        instances.append(Instance(category, visible, is_crowd=True))
        occupied |= visible
    for scale_range in _plan(rng, size, kind):
        category = categories[rng.integers(len(categories))]
        outline = category.outline(rng)
        # COCO's bounds are areas, so scale is the square root of the area, in pixels.
        scale = np.exp(rng.uniform(*np.log(scale_range)))
        margin = 0.44 if scale > _LARGE else 0.08
        for _ in range(_PLACEMENT_ATTEMPTS):
            centre = rng.uniform(margin, 1 - margin, 2) * size
            coverage = _rasterise(_place(outline, scale, rng.uniform(0, 2 * np.pi), centre), size)
            layer = _Layer(coverage, category.finish)
            visible = layer.mask & ~occupied
            if np.count_nonzero(visible) >= MIN_VISIBLE * scale**2:
                layers.append(layer)
                instances.append(Instance(category, visible))
                occupied |= visible
                break

    for _ in range(rng.integers(2, 8)):
        layers.append(_stroke(rng, size) if rng.random() < 0.5 else _blob(rng, size))
    return layers, instances


def _plan(rng: np.random.Generator, size: int, kind: str) -> Iterator[tuple[float, float]]:
    """The range of scale of each object to place, from front to back."""
    small, medium, large = (12.0, 31.0), (33.0, 0.52 * size), (106.0, 0.96 * size)
    has_large = kind == 'large' and large[0] < large[1]
    if kind == 'empty':
        return
    # What stands before a large object is mostly small, or the rest of it would not be large.
    small_part = 0.7 if has_large else 0.35
    for _ in range(rng.integers(0, 4) if has_large else rng.integers(1, 8)):
        yield small if rng.random() < small_part or medium[0] > medium[1] else medium
    if has_large:
        yield large


def _crowd(
    rng: np.random.Generator, size: int, category: Category, occupied: np.ndarray
) -> tuple[list[_Layer], np.ndarray]:
    """Tiny objects of one class around a point, and the pixels of them that can be seen."""
    middle = rng.uniform(0.3, 0.7, 2) * size
    spread = rng.uniform(0.1, 0.18, 2) * size
    layers = []
    covered = np.zeros_like(occupied)
    for _ in range(rng.integers(15, 31)):
        centre = middle + spread * rng.uniform(-1.5, 1.5, 2)
        contours = _place(
            category.outline(rng), rng.uniform(6, 10), rng.uniform(0, 2 * np.pi), centre
        )
        layers.append(_Layer(_rasterise(contours, size), category.finish))
        covered |= layers[-1].mask
    return layers, covered & ~occupied


def _stroke(rng: np.random.Generator, size: int) -> _Layer:
    """An unlabelled curve (a quadratic Bezier curve with random ends)."""
    ends = rng.uniform(0, size, (3, 2))
    t = np.linspace(0, 1, 24)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    canvas = np.zeros((size * _SUPERSAMPLING,) * 2, dtype=np.uint8)
    width = int(rng.integers(4, 15))
    cv2.polylines(canvas, [_fixed_point(curve)], False, 255, width, shift=_FIXED_POINT_BITS)
    return _Layer(_downsample(canvas, size))


def _blob(rng: np.random.Generator, size: int) -> _Layer:
    """An unlabelled, irregular, closed form."""
    outline = _arc(1.0)
    angle = np.linspace(0, 2 * np.pi, len(outline), endpoint=False)
    radius = np.ones(len(outline))
    for lobes in (2, 3, 4, 5):
        radius += rng.uniform(0.1, 0.24) * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
    contours = _place([outline * radius[:, None]], rng.uniform(6, 32), 0.0, rng.uniform(0, size, 2))
    return _Layer(_rasterise(contours, size))


def _place(contours: Contours, scale: float, angle: float, centre: np.ndarray) -> Contours:
    """Rotate contours by ``angle``, bring their filled area to ``scale``**2, move to ``centre``."""
    factor = scale / np.sqrt(abs(sum(_signed_area(contour) for contour in contours)))
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = factor * np.array([(cos, sin), (-sin, cos)])
    return [contour @ rotation + centre for contour in contours]


def _signed_area(contour: np.ndarray) -> float:
    x, y = contour.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def _rasterise(contours: Contours, size: int) -> np.ndarray:
    canvas = np.zeros((size * _SUPERSAMPLING,) * 2, dtype=np.uint8)
    cv2.fillPoly(
        canvas, [_fixed_point(contour) for contour in contours], 255, shift=_FIXED_POINT_BITS
    )
    return _downsample(canvas, size)


def _fixed_point(points: np.ndarray) -> np.ndarray:
    # OpenCV's integer coordinates are pixel centres, ours (as COCO's) pixel edges.
    scaled = points * _SUPERSAMPLING - 0.5
    return np.rint(scaled * 2**_FIXED_POINT_BITS).astype(np.int32)


def _downsample(canvas: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


# --- Paint: colours, patterns and noise, from back to front --------------------------------------


_PATTERNS = ('plain', 'gradient', 'stripes', 'checks', 'noise')


def _paint(rng: np.random.Generator, size: int, layers: list[_Layer]) -> np.ndarray:
    image = _background(rng, size)
    backdrop = image.mean(axis=(0, 1))
    for layer in reversed(layers):
        first, second, blend = _object_paint(rng, size, layer.finish, backdrop)
        has_rim, rim_strength = rng.random() < 0.5, np.float32(rng.uniform(0.3, 0.6))
        x, y, width, height = cv2.boundingRect(layer.coverage)
        window = (slice(y, y + height), slice(x, x + width))
        paint = _mix(first, second, blend[window])
        if has_rim:
            inside = cv2.erode(layer.coverage, np.ones((3, 3), np.uint8))[window]
            paint *= 1 - rim_strength * (1 - inside[..., None] / np.float32(255))
        alpha = layer.coverage[window][..., None] / np.float32(255)
        image[window] += alpha * (paint - image[window])
    light = _pattern(rng, size, 'gradient')[..., None]
    image *= 1 + np.float32(rng.uniform(0, 0.35)) * (light - 0.5)
    image += rng.normal(0, rng.uniform(1, 7), image.shape).astype(np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    hue, value = rng.random(), rng.uniform(0.2, 0.85)
    first = _colour(hue, rng.uniform(0, 0.5), value)
    second = _colour(
        hue + rng.uniform(-0.15, 0.15),
        rng.uniform(0, 0.5),
        np.clip(value + rng.uniform(-0.35, 0.35), 0.05, 0.95),
    )
    blend = 0.7 * _pattern(rng, size, 'noise')
    blend += 0.3 * _pattern(rng, size, _PATTERNS[rng.integers(len(_PATTERNS))])
    return _mix(first, second, blend)


def _object_paint(
    rng: np.random.Generator, size: int, finish: Finish | None, backdrop: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two colours, (3,) BGR each, and the field that blends them."""
    if finish is not None:
        first = _colour(finish.hue + rng.uniform(-0.025, 0.025), 0.85, rng.uniform(0.75, 1))
        second = first if finish.pattern == 'plain' else first * np.float32(0.2)
        return first, second, _pattern(rng, size, finish.pattern)
    for _ in range(_PLACEMENT_ATTEMPTS):
        hue, value = rng.random(), rng.uniform(0.3, 1)
        first = _colour(hue, rng.uniform(0.3, 1), value)
        if np.abs(first - backdrop).max() > 70:
            break
    second = _colour(
        hue + rng.uniform(-0.12, 0.12), rng.uniform(0.3, 1), value * rng.uniform(0.5, 0.9)
    )
    return first, second, _pattern(rng, size, _PATTERNS[rng.integers(len(_PATTERNS))])


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value)[::-1], np.float32) * 255


def _mix(first: np.ndarray, second: np.ndarray, blend: np.ndarray) -> np.ndarray:
    return first + blend[..., None] * (second - first)


def _pattern(rng: np.random.Generator, size: int, name: str) -> np.ndarray:
    """A field of values in [0, 1], (size, size) float32."""
    if name == 'plain':
        return np.zeros((size, size), np.float32)
    if name == 'noise':
        return _fractal_noise(rng, size)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.arange(size, dtype=np.float32)
    u = np.float32(np.cos(angle)) * along + np.float32(np.sin(angle)) * along[:, None]
    if name == 'gradient':
        return (u - u.min()) / (u.max() - u.min())
    period = np.float32(2 * np.pi / rng.uniform(4, 10))
    wave = np.sin(u * period)
    if name == 'checks':
        v = np.float32(-np.sin(angle)) * along + np.float32(np.cos(angle)) * along[:, None]
        wave *= np.sin(v * period)
    return np.clip(0.5 + 1.5 * wave, 0, 1)


def _fractal_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    field = np.zeros((size, size), np.float32)
    roughness = rng.uniform(0.5, 0.9)
    for octave in range(1, 6):
        coarse = rng.random((2**octave + 1,) * 2, dtype=np.float32)
        smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        field += np.float32(roughness**octave) * smooth
    return (field - field.min()) / (field.max() - field.min())


# --- Files ---------------------------------------------------------------------------------------


def _kind(index: int) -> str:
    """Kinds by position, not by chance, so that every eight or more images have all of them."""
    if index % 32 == 3:
        return 'empty'
    if index % 50 == 6:
        return 'crowd'
    return 'large' if index % 4 == 1 else 'mixed'


def _write_image(
    folder: Path, split: str, size: int, seed: int, categories: str, index: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw and save image ``index`` of a split; return its record and its annotations."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    pixels, instances = draw_scene(rng, size, CATEGORY_SETS[categories], _kind(index))
    image_id = _FIRST_IMAGE_ID[split] + index
    path = folder / split / f'{image_id:012d}.jpg'
    image = {'id': image_id, 'file_name': path.name, 'width': size, 'height': size}
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
        raise OSError(f'{path}: the image could not be written')
    first_id = image_id * _ANNOTATION_IDS_PER_IMAGE
    return image, [
        {'id': first_id + i, 'image_id': image_id, **_annotation(instance)}
        for i, instance in enumerate(instances, start=1)
    ]


def _annotation(instance: Instance) -> dict[str, Any]:
    mask = instance.visible
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    left, top = int(columns[0]), int(rows[0])
    outline = None if instance.is_crowd else polygons(mask)
    return {
        'category_id': instance.category.id,
        'bbox': [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        'area': int(np.count_nonzero(mask)),
        'iscrowd': int(instance.is_crowd),
        'segmentation': run_lengths(mask) if outline is None else outline,
    }


def _corners(points: np.ndarray) -> np.ndarray:
    """A closed polygon (N, 2) without repeated points and points on straight edges."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _write_split(
    folder: Path, split: str, info: dict[str, Any], workers: int, say: Callable[[str], None]
) -> None:
    (folder / 'annotations').mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir()
    count = info['images']
    write = partial(_write_image, folder, split, info['size'], info['seed'], info['categories'])
    images, annotations = [], []
    for image, found in _in_order(write, count, workers):
        images.append(image)
        annotations += found
        if len(images) % 500 == 0 or len(images) == count:
            say(f'{split}: {len(images)} of {count} images')
    content = {
        'info': info,
        'licenses': [],
        'categories': [
            {'id': category.id, 'name': category.name, 'supercategory': 'shape'}
            for category in CATEGORY_SETS[info['categories']]
        ],
        'images': images,
        'annotations': annotations,
    }
    _annotation_file(folder, split).write_text(json.dumps(content, separators=(',', ':')))


def _in_order(write: Callable[[int], Any], count: int, workers: int) -> Iterator[Any]:
    if workers == 1:
        yield from map(write, range(count))
        return
    with multiprocessing.Pool(workers, initializer=_start_worker) as pool:
        yield from pool.imap(write, range(count), chunksize=16)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle.
    cv2.setNumThreads(0)


def _info(images: int, size: int, seed: int, categories: str) -> dict[str, Any]:
    return {
        'description': 'Generated shapes for demonstration, tests and method comparison',
        'generator': GENERATOR,
        'version': VERSION,
        'seed': seed,
        'size': size,
        'categories': categories,
        'images': images,
    }


def _difference(out: Path, infos: dict[str, dict[str, Any]]) -> str | None:
    """What sets the folder ``out`` apart from the wanted set; None if nothing does."""
    if not out.exists() or not any(out.iterdir()):
        return 'empty'
    found = {split: _read_info(_annotation_file(out, split)) for split in SPLITS}
    strangers = {path.name for path in out.iterdir()} - {'annotations', *SPLITS}
    if strangers or any(info.get('generator') != GENERATOR for info in found.values()):
        raise FileExistsError(
            f'{out}: the folder holds files that this generator did not write '
            f'({", ".join(sorted(strangers)[:3]) or "annotations"}): give a new or an empty one'
        )
    for split, info in infos.items():
        for key, value in info.items():
            if found[split].get(key) != value:
                return f'{split} has {key} {found[split].get(key)!r} instead of {value!r}'
        files = sum(1 for _ in (out / split).glob('*.jpg'))
        if files != info['images']:
            return f'{split} has {files} instead of {info["images"]} image files'
    return None


def _read_info(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    info = content.get('info') if isinstance(content, dict) else None
    return info if isinstance(info, dict) else {}


def _annotation_file(folder: Path, split: str) -> Path:
    return folder / 'annotations' / f'instances_{split}.json'


def _available_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_arguments(
    train: int, val: int, size: int, seed: int, categories: str, workers: int | None
) -> None:
    for name, value, least in (
        ('train', train, 1),
        ('val', val, 1),
        ('size', size, MIN_SIZE),
        ('seed', seed, 0),
        ('workers', 1 if workers is None else workers, 1),
    ):
        if value < least:
            raise ValueError(f'{name} must be at least {least}, not {value}')
    if categories not in CATEGORY_SETS:
        raise ValueError(
            f'categories must be one of {", ".join(CATEGORY_SETS)}, not {categories!r}'
        )


def _ignore(line: str) -> None:
    pass


# --- Command line --------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """The command behind ``tools/make_shapes.py``."""
    parser = argparse.ArgumentParser(
        prog='make_shapes.py',
        description='Write a small detection set in COCO layout: ten shape classes in five pairs '
        'of look-alikes on textured backgrounds, with clutter, occlusion, small, medium and large '
        'objects, images without objects and crowd regions. Nothing is downloaded.',
        epilog='Same arguments, same files, whatever the number of workers. A folder that already '
        'holds the wanted set is left as it is; one that another version or other arguments made '
        'is replaced; one with other files is refused. An interrupted run leaves nothing that '
        'looks complete. The data is meant for demonstration, tests and the comparison of '
        'methods, not as a benchmark to publish on.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', nargs='?', default='data/shapes', help='folder to write')
    parser.add_argument('--train', type=int, default=2000, metavar='N', help='training images')
    parser.add_argument('--val', type=int, default=500, metavar='N', help='validation images')
    parser.add_argument(
        '--size',
        type=int,
        default=128,
        metavar='PX',
        help=f'width and height of the images, at least {MIN_SIZE}; below 112 no object reaches '
        "COCO's large area",
    )
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='random seed, 0 or more')
    parser.add_argument(
        '--categories',
        choices=tuple(CATEGORY_SETS),
        default='shapes',
        help="shapes: the ten shapes, colour and pattern random; coco80: COCO's 80 names and ids, "
        'each a shape in one of eight finishes, to try a COCO recipe on',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=_available_cores(),
        metavar='N',
        help='processes; the files do not depend on it',
    )
    given = vars(parser.parse_args(arguments))
    try:
        make_shapes(**given, log=partial(print, flush=True))
    except (ValueError, OSError) as error:
        parser.exit(2, f'{parser.prog}: {error}\n')
