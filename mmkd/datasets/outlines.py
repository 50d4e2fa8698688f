"""The outlines of the ten shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmkd.datasets.contours import Contours, arc


def _circle(rng: np.random.Generator) -> Contours:
    return [arc(1.0)]


def _ellipse(rng: np.random.Generator) -> Contours:
    return [arc(1.0) * np.array([rng.uniform(1.6, 2.3), 1])]


def _square(rng: np.random.Generator) -> Contours:
    return [arc(1.0, points=4)]


def _rectangle(rng: np.random.Generator) -> Contours:
    width = rng.uniform(1.6, 2.3)
    return [np.array([(-width, -1), (width, -1), (width, 1), (-width, 1)], dtype=float)]


def _pentagon(rng: np.random.Generator) -> Contours:
    return [arc(1.0, points=5)]


def _triangle(rng: np.random.Generator) -> Contours:
    return [arc(1.0, points=3)]


def _star(rng: np.random.Generator) -> Contours:
    radius = np.tile([1.0, rng.uniform(0.42, 0.55)], 5)
    return [arc(1.0, points=10) * radius[:, None]]


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
    return [arc(1.0), arc(rng.uniform(0.4, 0.62))[::-1]]


def _crescent(rng: np.random.Generator) -> Contours:
    # A unit disc without the disc of radius r at (d, 0); they meet at the angles +-a and +-b.
    d, r = rng.uniform(0.35, 0.55), rng.uniform(0.72, 0.88)
    a = np.arccos((1 + d * d - r * r) / (2 * d))
    b = np.arccos((1 - d * d - r * r) / (2 * d * r))
    outer = arc(1.0, a, 2 * np.pi - a)
    inner = arc(r, 2 * np.pi - b, b) + np.array([d, 0])
    return [np.concatenate([outer, inner])]


SHAPES: dict[str, Callable[[np.random.Generator], Contours]] = {
    'circle': _circle,
    'ellipse': _ellipse,
    'square': _square,
    'rectangle': _rectangle,
    'triangle': _triangle,
    'pentagon': _pentagon,
    'star': _star,
    'cross': _cross,
    'ring': _ring,
    'crescent': _crescent,
}
"""The ten shapes, in five pairs of look-alikes."""
