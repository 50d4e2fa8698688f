"""Paints layers from back to front, with colours, patterns, light and noise."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from mmkd.datasets.objects import Finish

_COLOUR_ATTEMPTS = 10
_PATTERNS = ('plain', 'gradient', 'stripes', 'checks', 'noise')


@dataclass(frozen=True)
class Layer:
    """Something to paint, and its coverage of each pixel, (H, W) uint8; 255 is full coverage."""

    coverage: np.ndarray
    finish: Finish | None = None

    @property
    def mask(self) -> np.ndarray:
        """The pixels that are covered by at least half, (H, W) bool."""
        return self.coverage >= 128


def paint(rng: np.random.Generator, size: int, layers: list[Layer]) -> np.ndarray:
    """Paint layers, given from front to back, on a background: (size, size, 3) BGR uint8."""
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
    if finish is not None and finish.hue is not None:
        first = _colour(finish.hue + rng.uniform(-0.025, 0.025), 0.85, rng.uniform(0.75, 1))
        second = first if finish.pattern == 'plain' else first * np.float32(0.2)
        return first, second, _pattern(rng, size, finish.pattern)
    for _ in range(_COLOUR_ATTEMPTS):
        hue, value = rng.random(), rng.uniform(0.3, 1)
        first = _colour(hue, rng.uniform(0.3, 1), value)
        if np.abs(first - backdrop).max() > 70:
            break
    second = _colour(
        hue + rng.uniform(-0.12, 0.12), rng.uniform(0.3, 1), value * rng.uniform(0.5, 0.9)
    )
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))] if finish is None else finish.pattern
    return first, second, _pattern(rng, size, pattern)


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
