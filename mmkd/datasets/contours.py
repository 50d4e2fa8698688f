"""Outlines of objects as contours: how they are placed and turned into pixels."""

from __future__ import annotations

import cv2
import numpy as np

Contours = list[np.ndarray]
"""Closed contours, each (N, 2) of (x, y), filled by the even-odd rule. Outer contours run in one
direction, holes in the other, so that the signed areas add up to the filled area."""

SUPERSAMPLING = 4
FIXED_POINT_BITS = 4


def arc(radius: float, start: float = 0.0, stop: float = 2 * np.pi, points: int = 72) -> np.ndarray:
    """Points of a circle around the origin, (points, 2), the last one before ``stop``."""
    angle = np.linspace(start, stop, points, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def place(contours: Contours, scale: float, angle: float, centre: np.ndarray) -> Contours:
    """Rotate contours by ``angle``, scale their filled area to ``scale``**2, move them to ``centre``."""
    factor = scale / np.sqrt(abs(sum(signed_area(contour) for contour in contours)))
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = factor * np.array([(cos, sin), (-sin, cos)])
    return [contour @ rotation + centre for contour in contours]


def signed_area(contour: np.ndarray) -> float:
    """The area within a contour; negative if it runs in the other direction."""
    x, y = contour.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def rasterise(contours: Contours, size: int) -> np.ndarray:
    """Coverage of each pixel by contours, (size, size) uint8; 255 is full coverage."""
    canvas = np.zeros((size * SUPERSAMPLING,) * 2, dtype=np.uint8)
    cv2.fillPoly(
        canvas, [fixed_point(contour) for contour in contours], 255, shift=FIXED_POINT_BITS
    )
    return downsample(canvas, size)


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Points in pixels to OpenCV's fixed-point coordinates on a canvas ``SUPERSAMPLING`` times as large."""
    # OpenCV's integer coordinates are pixel centres, ours (as COCO's) pixel edges.
    scaled = points * SUPERSAMPLING - 0.5
    return np.rint(scaled * 2**FIXED_POINT_BITS).astype(np.int32)


def downsample(canvas: np.ndarray, size: int) -> np.ndarray:
    """Reduce a canvas ``SUPERSAMPLING`` times as large to ``size`` pixels."""
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
