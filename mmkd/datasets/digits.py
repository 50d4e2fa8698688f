"""scikit-learn's bundled handwritten digits: 1,797 images of 8×8 pixels, with writers kept apart.

The set is the test part of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998). Its
description says that 13 people wrote it, but not who wrote which digit. The labels, however, repeat one text of 130
digits (0 to 9 three times, then 100 in a fixed mixture) 14 times, sometimes with a digit missing: these are the forms
that the writers filled in, one after the other. The split keeps forms whole. As there are 14 forms and 13 writers, one
writer may have filled in two forms, which may be in different splits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

from mmkd.datasets.contours import Contours, signed_area

FORM_STARTS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)
"""Index of the first digit of each form in scikit-learn's order; found from the labels, see above."""

FORMS = {'train': (0, 8), 'val': (8, 11), 'test': (11, 14)}
"""The first eight forms are for training (1,029 images), three for validation (386), three for testing (382)."""

_BRIGHTEST = 16
_OUTLINE_SCALE = 8


def photographs(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of a split in scikit-learn's order, (N, 8, 8) uint8, and the digits, (N,)."""
    images, labels = _load()
    first, end = ((*FORM_STARTS, len(labels))[form] for form in FORMS[split])
    return images[first:end], labels[first:end]


def outline_of(digit: int, split: str) -> Callable[[np.random.Generator], Contours]:
    """A function that returns the contours of one of the split's images of a digit, chosen at random."""

    def outline(rng: np.random.Generator) -> Contours:
        images, labels = photographs(split)
        choice = np.flatnonzero(labels == digit)
        return contours_of(images[choice[rng.integers(len(choice))]])

    return outline


def contours_of(image: np.ndarray) -> Contours:
    """The contours around what is written in an image, (8, 8) uint8, with the middle of their box at the origin."""
    height, width = (_OUTLINE_SCALE * (length + 2) for length in image.shape)
    fine = cv2.resize(np.pad(image, 1), (width, height), interpolation=cv2.INTER_CUBIC)
    ink = (fine > 0.4 * fine.max()).astype(np.uint8)
    found, _ = cv2.findContours(ink, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    # OpenCV's holes run in the other direction, as Contours needs it. Specks come from the reduction to 8×8.
    contours = [contour[:, 0].astype(float) for contour in found]
    largest = max(abs(signed_area(contour)) for contour in contours)
    contours = [contour for contour in contours if abs(signed_area(contour)) > 0.03 * largest]
    points = np.concatenate(contours)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return [contour - middle for contour in contours]


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    # Imported here: nothing else needs scikit-learn, and importing it takes a second.
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.rint(data.images * (255 / _BRIGHTEST)).astype(np.uint8), data.target
