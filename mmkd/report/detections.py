"""Annotated and detected objects of images, and which belong to which."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Scene:
    """An annotated image.

    Attributes:
        id: Number of the image in the annotations.
        path: The image file.
        objects: Its objects, without crowd regions.
        crowded: Whether it has crowd regions.
    """

    id: int
    path: Path
    objects: Objects
    crowded: bool = False


def read_scenes(annotations: str | Path, images: str | Path, classes: Sequence[str]) -> list[Scene]:
    """Read a COCO annotation file.

    Args:
        annotations: The JSON file.
        images: The folder of the images.
        classes: Names of the classes in the order of the model's labels.

    Returns:
        The images in the order of their ids. Objects of other classes are left out.
    """
    content = json.loads(Path(annotations).read_text(encoding='utf-8'))
    names = {category['id']: category['name'] for category in content['categories']}
    label_of = {
        number: list(classes).index(name) for number, name in names.items() if name in classes
    }
    by_image: dict[int, list[dict[str, Any]]] = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        if annotation['category_id'] in label_of:
            by_image[annotation['image_id']].append(annotation)
    scenes = []
    for image in sorted(content['images'], key=lambda image: image['id']):
        own = by_image[image['id']]
        single = [annotation for annotation in own if not annotation.get('iscrowd')]
        labels = np.array([label_of[annotation['category_id']] for annotation in single], dtype=int)
        boxes = np.array([each['bbox'] for each in single], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        path = Path(images) / image['file_name']
        scenes.append(Scene(image['id'], path, Objects(boxes, labels), len(single) < len(own)))
    return scenes


def read_predictions(path: str | Path, score_threshold: float) -> dict[int, Objects]:
    """Read the predictions that ``tools/test.py --out`` dumped.

    Args:
        path: The pickle file. Unpickling runs code: read only files of your own.
        score_threshold: Detections below are left out.

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
        boxes, labels = instances['bboxes'].numpy(), instances['labels'].numpy()
        predictions[sample['img_id']] = Objects(boxes[order], labels[order])
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
    # Here: classifiers' reports need no MMDetection.
    from mmdet.evaluation.functional import bbox_overlaps

    iou = bbox_overlaps(detections.boxes, objects.boxes)
    iou = np.where(detections.labels[:, None] == objects.labels, iou, 0.0)
    correct = np.zeros(len(detections), dtype=bool)
    found = np.zeros(len(objects), dtype=bool)
    for index in range(len(detections)):
        candidates = np.where(found, 0.0, iou[index])
        if candidates.size and candidates.max() >= iou_threshold:
            correct[index] = found[candidates.argmax()] = True
    return correct, found


def choose_scenes(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """Choose images to show, without a look at any detection.

    Those with 2 to 4 objects whose boxes are a 64th to a quarter of the largest image and do not overlap, and no crowd
    region; of these one after the other the image that shows most classes which none before it shows, the first of
    several. With fewer such images than ``count``, all images are taken into account.
    """
    suitable = [scene for scene in scenes if 2 <= len(scene.objects) <= 4 and not scene.crowded]
    if suitable:
        side = max(scene.objects.boxes.max() for scene in suitable)
        suitable = [scene for scene in suitable if _is_clear(scene.objects.boxes, side**2)]
    left = suitable if len(suitable) >= count else list(scenes)
    chosen: list[Scene] = []
    seen: set[int] = set()
    while left and len(chosen) < count:
        best = max(left, key=lambda scene: len(set(scene.objects.labels.tolist()) - seen))
        left = [scene for scene in left if scene is not best]
        chosen.append(best)
        seen |= set(best.objects.labels.tolist())
    return chosen


def _is_clear(boxes: np.ndarray, image: float) -> bool:
    """Whether boxes (N, 4) are neither tiny nor large in an image of so many pixels, and do not overlap."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    first, second = np.triu_indices(len(boxes), k=1)
    corner = np.minimum(boxes[first, 2:], boxes[second, 2:])
    common = (corner - np.maximum(boxes[first, :2], boxes[second, :2])).min(axis=1)
    return bool((area >= image / 64).all() and (area <= image / 4).all() and (common <= 0).all())
