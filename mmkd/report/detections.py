"""Annotated and detected objects of images, and which belong to which."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Objects:
    """Annotated or detected objects of one image.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 in pixels.
        labels: (N,) index of the class.
        scores: (N,) confidence in [0, 1]; None for annotations.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Scene:
    """An annotated image.

    Attributes:
        id: number of the image in the annotations.
        path: the image file.
        objects: its objects.
        crowds: (M, 4) boxes of crowd regions, where detections are neither right nor wrong.
    """

    id: int
    path: Path
    objects: Objects
    crowds: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))


@dataclass(frozen=True)
class Matches:
    """Which detections are right.

    Attributes:
        correct: (D,) bool, whether a detection found an object of its class.
        ignored: (D,) bool, whether it lies in a crowd region and does not count.
        found: (N,) bool, whether an annotated object was found.
    """

    correct: np.ndarray
    ignored: np.ndarray
    found: np.ndarray


def read_scenes(annotations: str | Path, images: str | Path, classes: Sequence[str]) -> list[Scene]:
    """Read a COCO annotation file.

    Args:
        annotations: the JSON file.
        images: the folder of the images.
        classes: names of the classes in the order of the model's labels.

    Returns:
        The images in the order of their ids. Objects of other classes are left out.
    """
    content = json.loads(Path(annotations).read_text(encoding='utf-8'))
    label_of = {
        category['id']: list(classes).index(category['name'])
        for category in content['categories']
        if category['name'] in classes
    }
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in content['annotations']:
        if annotation['category_id'] in label_of:
            by_image.setdefault(annotation['image_id'], []).append(annotation)
    scenes = []
    for image in sorted(content['images'], key=lambda image: image['id']):
        own = by_image.get(image['id'], [])
        single = [annotation for annotation in own if not annotation.get('iscrowd')]
        labels = np.array([label_of[annotation['category_id']] for annotation in single], dtype=int)
        crowds = [annotation for annotation in own if annotation.get('iscrowd')]
        scenes.append(
            Scene(
                image['id'],
                Path(images) / image['file_name'],
                Objects(_corner_boxes(single), labels),
                _corner_boxes(crowds),
            )
        )
    return scenes


def read_predictions(path: str | Path, score_threshold: float) -> dict[int, Objects]:
    """Read the predictions that ``tools/test.py --out`` dumped.

    Args:
        path: the pickle file. Unpickling runs code: read only files of your own.
        score_threshold: detections below are left out.

    Returns:
        The detections by image id, the most certain first.
    """
    with Path(path).open('rb') as file:
        samples = pickle.load(file)
    predictions = {}
    for sample in samples:
        instances = sample['pred_instances']
        scores = instances['scores'].numpy()
        order = np.argsort(-scores, kind='stable')
        order = order[scores[order] >= score_threshold]
        predictions[sample['img_id']] = Objects(
            instances['bboxes'].numpy()[order], instances['labels'].numpy()[order], scores[order]
        )
    return predictions


def match(detections: Objects, scene: Scene, iou_threshold: float = 0.5) -> Matches:
    """Assign detections to annotated objects as COCO's evaluation does at one IoU.

    Each detection in turn, the most certain first, takes the object of its class that it overlaps
    most, of those not taken before, if their IoU reaches the threshold. One that finds none but
    lies in a crowd region by at least the threshold (part of its own area) is ignored.

    Args:
        detections: D detections, the most certain first.
        scene: the image with its N objects.
        iou_threshold: the overlap that counts as found.
    """
    objects = scene.objects
    overlap = _intersection(detections.boxes, objects.boxes)
    areas = _area(detections.boxes)
    union = areas[:, None] + _area(objects.boxes) - overlap
    iou = np.where(detections.labels[:, None] == objects.labels, overlap / union, 0.0)
    in_crowd = _intersection(detections.boxes, scene.crowds) / areas[:, None]

    correct = np.zeros(len(detections), dtype=bool)
    found = np.zeros(len(objects), dtype=bool)
    for index in range(len(detections)):
        candidates = np.where(found, 0.0, iou[index])
        if candidates.size and candidates.max() >= iou_threshold:
            correct[index] = found[candidates.argmax()] = True
    ignored = ~correct & (in_crowd >= iou_threshold).any(axis=1)
    return Matches(correct, ignored, found)


def spread_scenes(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """Choose images to show: evenly spread over those with 3 to 6 objects and no crowd region.

    The choice does not look at any detection. With fewer such images than ``count``, all images
    are taken into account.
    """
    suitable = [scene for scene in scenes if 3 <= len(scene.objects) <= 6 and not len(scene.crowds)]
    if len(suitable) < count:
        suitable = list(scenes)
    count = min(count, len(suitable))
    return [suitable[index * len(suitable) // count] for index in range(count)]


def _corner_boxes(annotations: Sequence[dict[str, Any]]) -> np.ndarray:
    boxes = np.array([annotation['bbox'] for annotation in annotations], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _area(boxes: np.ndarray) -> np.ndarray:
    # A box without extent overlaps nothing; its area must not be divided by.
    return np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)


def _intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The areas shared by each of (D, 4) and each of (N, 4) boxes, (D, N)."""
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.clip(bottom_right - top_left, 0, None).prod(axis=2)
