"""COCO's folder layout, for detection."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from typing_extensions import override

from mmkd.datasets.folders import Info, Layout, save_image, write_images
from mmkd.datasets.objects import OBJECT_SETS, Split
from mmkd.datasets.scenes import Instance, draw_scene

# First image id of each split and room for annotation ids per image: ids never clash between
# splits and do not depend on how many images there are. COCO's evaluation takes annotation
# id 0 for 'unmatched', hence nothing starts at 0.
_FIRST_IMAGE_ID = {'train': 1, 'val': 1_000_001, 'test': 2_000_001}
_STREAM = {
    'train': 0,
    'val': 1,
    'test': 4,
}  # Classification has the others, so no image is drawn for both.
_ANNOTATION_IDS_PER_IMAGE = 1000

_JPEG_QUALITY = 95


class CocoLayout(Layout):
    """``annotations/instances_{train,val,test}2017.json``, and JPEG images in ``train2017/`` and so on."""

    version = '2'
    entries = frozenset({'annotations', 'train2017', 'val2017', 'test2017'})
    smallest = 64

    @override
    def write(
        self, folder: Path, split: Split, info: Info, workers: int, say: Callable[[str], None]
    ) -> None:
        name = self.split_name(split)
        (folder / 'annotations').mkdir(parents=True, exist_ok=True)
        (folder / name).mkdir()
        draw = partial(
            _write_image, folder / name, split, info['size'], info['seed'], info['categories']
        )
        written = write_images(draw, info['images'], workers, name, say)
        objects = OBJECT_SETS[info['categories']]
        content = {
            'info': info,
            'licenses': [],
            'categories': [
                {'id': category.id, 'name': category.name, 'supercategory': objects.supercategory}
                for category in objects.categories(split)
            ],
            'images': [image for image, _ in written],
            'annotations': [annotation for _, found in written for annotation in found],
        }
        path = _annotation_file(folder, name)
        path.write_text(json.dumps(content, separators=(',', ':')))

    @override
    def read_info(self, folder: Path, split: Split) -> Info:
        try:
            content = json.loads(_annotation_file(folder, self.split_name(split)).read_text())
        except (OSError, ValueError):
            return {}
        info = content.get('info') if isinstance(content, dict) else None
        return info if isinstance(info, dict) else {}

    @override
    def count_images(self, folder: Path, split: Split) -> int:
        return sum(1 for _ in (folder / self.split_name(split)).glob('*.jpg'))

    def split_name(self, split: Split) -> str:
        """``train2017``, ``val2017`` or ``test2017``."""
        return f'{split}2017'


def polygons(mask: np.ndarray) -> list[list[int]] | None:
    """COCO polygons [x1, y1, x2, y2, ...] along the pixel edges of a mask, (H, W) bool.

    pycocotools rasterises them to exactly ``mask``. Returns None if the mask has a hole, which
    COCO's polygons cannot express.
    """
    # Contours run through pixel centres. After doubling every pixel, the outermost centres 2i and
    # 2i + 1 of pixel i correspond to its edges i and i + 1.
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


def _kind(index: int) -> str:
    """Kinds by position, not at random, so that a set of eight or more images has all of them."""
    if index % 32 == 3:
        return 'empty'
    if index % 50 == 6:
        return 'crowd'
    return 'large' if index % 4 == 1 else 'mixed'


def _write_image(
    folder: Path, split: Split, size: int, seed: int, categories: str, index: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw and save image ``index`` of a split; return its record and its annotations."""
    rng = np.random.default_rng([seed, _STREAM[split], index])
    objects = OBJECT_SETS[categories].categories(split)
    pixels, instances = draw_scene(rng, size, objects, _kind(index))
    image_id = _FIRST_IMAGE_ID[split] + index
    path = folder / f'{image_id:012d}.jpg'
    save_image(path, pixels, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
    image = {'id': image_id, 'file_name': path.name, 'width': size, 'height': size}
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


def _annotation_file(folder: Path, name: str) -> Path:
    return folder / 'annotations' / f'instances_{name}.json'
