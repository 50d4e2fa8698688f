"""Composes images with objects, from front to back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from mmkd.datasets.contours import (
    FIXED_POINT_BITS,
    SUPERSAMPLING,
    Contours,
    arc,
    downsample,
    fixed_point,
    place,
    rasterise,
    signed_area,
)
from mmkd.datasets.objects import Category
from mmkd.datasets.painting import Layer, paint

MIN_VISIBLE = 0.5
"""An object is kept if at least this fraction of its area is inside the image and not occluded."""

_LARGE = 96
"""Objects of more than this many pixels squared are COCO's large ones."""

_PLACEMENT_ATTEMPTS = 10
_LARGEST_TILT = 0.3  # radians, of upright objects and in classification


@dataclass(frozen=True)
class Instance:
    """An annotated object and its visible pixels, (H, W) bool."""

    category: Category
    visible: np.ndarray
    is_crowd: bool = False


def draw_scene(
    rng: np.random.Generator, size: int, categories: tuple[Category, ...], kind: str = 'mixed'
) -> tuple[np.ndarray, list[Instance]]:
    """Draw an image for detection.

    Args:
        rng: The only source of randomness.
        size: Width and height in pixels.
        categories: Classes of the objects, with equal probability.
        kind: 'mixed' (1 to 7 small and medium objects), 'large' (a large object behind up to 3
            others), 'crowd' (mixed, and a region of many tiny objects of one class) or 'empty'.

    Returns:
        The image, (size, size, 3) BGR uint8, and its objects from front to back.
    """
    layers, instances = _lay_out(rng, size, categories, kind)
    return paint(rng, size, layers), instances


def draw_object(rng: np.random.Generator, size: int, category: Category) -> np.ndarray:
    """Draw an image for classification: one object near the middle, tilted a little, with clutter.

    Args:
        rng: The only source of randomness.
        size: Width and height in pixels.
        category: What to draw.

    Returns:
        The image, (size, size, 3) BGR uint8.
    """
    outline = category.outline(rng)
    scale = _fitting(size * rng.uniform(0.45, 0.7), category, outline, size)
    centre = size * rng.uniform(0.42, 0.58, 2)
    contours = place(outline, scale, rng.uniform(-_LARGEST_TILT, _LARGEST_TILT), centre)
    layers = [_stroke(rng, size)] if rng.random() < 0.3 else []
    layers.append(Layer(rasterise(contours, size), category.finish))
    layers += [
        _stroke(rng, size) if rng.random() < 0.5 else _blob(rng, size)
        for _ in range(rng.integers(0, 3))
    ]
    return paint(rng, size, layers)


def _lay_out(
    rng: np.random.Generator, size: int, categories: tuple[Category, ...], kind: str
) -> tuple[list[Layer], list[Instance]]:
    layers = [_stroke(rng, size) for _ in range(rng.choice([0, 1, 2], p=[0.8, 0.15, 0.05]))]
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
        scale = _fitting(np.exp(rng.uniform(*np.log(scale_range))), category, outline, size)
        margin = 0.44 if scale > _LARGE else 0.08
        for _ in range(_PLACEMENT_ATTEMPTS):
            centre = rng.uniform(margin, 1 - margin, 2) * size
            coverage = rasterise(place(outline, scale, _angle(rng, category), centre), size)
            layer = Layer(coverage, category.finish)
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
    small, medium, large = (18.0, 31.0), (33.0, 0.5 * size), (106.0, 0.9 * size)
    has_large = kind == 'large' and large[0] < large[1]
    if kind == 'empty':
        return
    # Objects in front of a large one are mostly small, so that enough of it remains visible.
    small_part = 0.7 if has_large else 0.35
    for _ in range(rng.integers(0, 4) if has_large else rng.integers(1, 8)):
        yield small if rng.random() < small_part or medium[0] > medium[1] else medium
    if has_large:
        yield large


def _crowd(
    rng: np.random.Generator, size: int, category: Category, occupied: np.ndarray
) -> tuple[list[Layer], np.ndarray]:
    """Tiny objects of one class around a point, and their visible pixels."""
    middle = rng.uniform(0.3, 0.7, 2) * size
    spread = rng.uniform(0.1, 0.18, 2) * size
    layers = []
    covered = np.zeros_like(occupied)
    for _ in range(rng.integers(15, 31)):
        centre = middle + spread * rng.uniform(-1.5, 1.5, 2)
        contours = place(category.outline(rng), rng.uniform(6, 10), _angle(rng, category), centre)
        layers.append(Layer(rasterise(contours, size), category.finish))
        covered |= layers[-1].mask
    return layers, covered & ~occupied


def _stroke(rng: np.random.Generator, size: int) -> Layer:
    """An unlabelled curve (a quadratic Bezier curve with random ends)."""
    ends = rng.uniform(0, size, (3, 2))
    t = np.linspace(0, 1, 24)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    canvas = np.zeros((size * SUPERSAMPLING,) * 2, dtype=np.uint8)
    width = int(rng.integers(4, 15))
    cv2.polylines(canvas, [fixed_point(curve)], False, 255, width, shift=FIXED_POINT_BITS)
    return Layer(downsample(canvas, size))


def _blob(rng: np.random.Generator, size: int) -> Layer:
    """An unlabelled, irregular, closed form."""
    outline = arc(1.0)
    angle = np.linspace(0, 2 * np.pi, len(outline), endpoint=False)
    radius = np.ones(len(outline))
    for lobes in (2, 3, 4, 5):
        radius += rng.uniform(0.1, 0.24) * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
    contours = place(
        [outline * radius[:, None]], rng.uniform(6, min(32, size / 2)), 0.0, rng.uniform(0, size, 2)
    )
    return Layer(rasterise(contours, size))


def _angle(rng: np.random.Generator, category: Category) -> float:
    if category.upright:
        return rng.uniform(-_LARGEST_TILT, _LARGEST_TILT)
    return rng.uniform(0, 2 * np.pi)


def _fitting(scale: float, category: Category, outline: Contours, size: int) -> float:
    """The scale, or for an upright object the largest one that fits into the image."""
    if not category.upright:
        return scale
    points = np.concatenate(outline)
    area = abs(sum(signed_area(contour) for contour in outline))
    length = max(np.ptp(points, axis=0)) / np.sqrt(area)  # at a scale of 1
    return min(scale, 0.9 * size / length)
