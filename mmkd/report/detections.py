"""Annotated and detected objects of images, and which belong to which."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Objects:
    """Annotated or detected objects of one image.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 in pixels.
        labels: (N,) index of the class.
    """

    boxes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Scene:
    """An annotated image.

    Attributes:
        id: Number of the image in the annotations.
        path: The image file.
        objects: Its objects, without crowd regions.
        is_clear: Whether it is one to show: 2 to 4 objects whose boxes are a 64th to a quarter of the image and do not
            overlap, and no crowd region.
    """

    id: int
    path: Path
    objects: Objects
    is_clear: bool


def read_scenes(dataset: Any) -> list[Scene]:
    """The images of MMDetection's data set, as built, in the order of their ids."""
    scenes = []
    for data in map(dataset.get_data_info, range(len(dataset))):
        single = [each for each in data['instances'] if not each['ignore_flag']]
        boxes = np.array([each['bbox'] for each in single], dtype=float).reshape(-1, 4)
        objects = Objects(boxes, np.array([each['bbox_label'] for each in single], dtype=int))
        clear = 2 <= len(single) == len(data['instances']) <= 4
        clear = clear and _are_apart(boxes, data['height'] * data['width'])
        scenes.append(Scene(data['img_id'], Path(data['img_path']), objects, clear))
    return sorted(scenes, key=lambda scene: scene.id)


def _are_apart(boxes: np.ndarray, image: float) -> bool:
    """Whether boxes are neither tiny nor large in an image of so many pixels, and do not overlap."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    overlap = np.triu(_iou(boxes, boxes), k=1).any()
    return bool((area >= image / 64).all() and (area <= image / 4).all() and not overlap)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    # Here: classifiers' reports need no MMDetection.
    from mmdet.evaluation.functional import bbox_overlaps

    return bbox_overlaps(first, second)


def read_predictions(path: str | Path, score_threshold: float) -> dict[int, Objects]:
    """Read the predictions that ``tools/test.py --out`` dumped.

    Args:
        path: The pickle file. Unpickling runs code: read only files of your own.
        score_threshold: Detections below are left out.

    Returns:
        The detections by image id, the most certain first.
    """
    predictions = {}
    for sample in pickle.loads(Path(path).read_bytes()):
        instances = sample['pred_instances']
        order = instances['scores'].argsort(descending=True, stable=True)
        order = order[instances['scores'][order] >= score_threshold]
        boxes, labels = (instances[key][order].numpy() for key in ('bboxes', 'labels'))
        predictions[sample['img_id']] = Objects(boxes, labels)
    return predictions


def match(
    detections: Objects, objects: Objects, iou_threshold: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Assign detections to annotated objects as COCO's evaluation does at one IoU.

    Each detection in turn, the most certain first, takes the object of its class that it overlaps
    most, of those not taken before, if their IoU reaches the threshold.

    Args:
        detections: D detections, the most certain first.
        objects: N annotated objects.
        iou_threshold: The overlap that counts as found.

    Returns:
        (D,) bool, whether a detection found an object, and (N,) bool, whether an object was found.
    """
    iou = _iou(detections.boxes, objects.boxes)
    iou = np.where(detections.labels[:, None] == objects.labels, iou, 0.0)
    correct, found = np.zeros(len(detections), dtype=bool), np.zeros(len(objects), dtype=bool)
    for index in range(len(detections)):
        candidates = np.where(found, 0.0, iou[index])
        if candidates.size and candidates.max() >= iou_threshold:
            correct[index] = found[candidates.argmax()] = True
    return correct, found


def choose_scenes(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """Choose images to show, without a look at any detection.

    Of the clear ones, or of all where these are fewer than ``count``, one after the other that which shows most classes
    that none before it shows, the first of several.
    """
    clear = [scene for scene in scenes if scene.is_clear]
    left = clear if len(clear) >= count else list(scenes)
    chosen: list[Scene] = []
    seen: set[int] = set()
    while left and len(chosen) < count:
        best = max(left, key=lambda scene: len({*scene.objects.labels.tolist()} - seen))
        left.remove(best)
        chosen.append(best)
        seen |= {*best.objects.labels.tolist()}
    return chosen
