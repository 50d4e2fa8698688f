from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import torch

from mmkd.report import Objects, Scene, choose_scenes, match, read_predictions, read_scenes


def objects(*rows: tuple[float, ...]) -> Objects:
    """Objects from rows of x1, y1, x2, y2, label."""
    values = np.array(rows, dtype=float).reshape(-1, 5)
    return Objects(values[:, :4], values[:, 4].astype(int))


def scene(annotated: Objects, number: int = 1, crowded: bool = False) -> Scene:
    return Scene(number, Path('x.jpg'), annotated, crowded)


def test_an_object_is_found_once_by_the_most_certain_detection_of_its_class() -> None:
    annotated = objects((0, 0, 10, 10, 0), (20, 20, 30, 30, 1))
    detections = objects(
        (0, 0, 10, 9, 0),  # IoU 0.9
        (0, 0, 10, 10, 0),  # better, but the object is taken
        (20, 20, 30, 30, 0),  # another class
    )
    correct, found = match(detections, annotated)
    assert correct.tolist() == [True, False, False]
    assert found.tolist() == [True, False]


def test_the_threshold_is_inclusive() -> None:
    annotated = objects((0, 0, 10, 10, 0))
    assert match(objects((0, 0, 10, 5, 0)), annotated)[0].tolist() == [True]
    assert match(objects((0, 0, 10, 4.9, 0)), annotated)[0].tolist() == [False]


def test_a_detection_takes_the_object_that_it_overlaps_most() -> None:
    annotated = objects((0, 0, 10, 8, 0), (0, 0, 10, 10, 0))
    correct, found = match(objects((0, 0, 10, 10, 0), (0, 0, 10, 8, 0)), annotated)
    assert correct.tolist() == [True, True]
    assert found.tolist() == [True, True]


def test_nothing_against_nothing_and_a_box_without_extent() -> None:
    assert [len(each) for each in match(objects(), objects())] == [0, 0]
    assert match(objects(), objects((0, 0, 9, 9, 0)))[1].tolist() == [False]
    assert match(objects((3, 3, 3, 3, 0)), objects((0, 0, 9, 9, 0)))[0].tolist() == [False]


def test_coco_annotations_are_read_by_class_name(tmp_path: Path) -> None:
    annotations = tmp_path / 'instances.json'
    content = {
        'categories': [
            {'id': 7, 'name': 'square'},
            {'id': 3, 'name': 'circle'},
            {'id': 9, 'name': 'other'},
        ],
        'images': [{'id': 5, 'file_name': 'b.jpg'}, {'id': 2, 'file_name': 'a.jpg'}],
        'annotations': [
            {'image_id': 5, 'category_id': 7, 'bbox': [1, 2, 3, 4], 'iscrowd': 0},
            {'image_id': 5, 'category_id': 3, 'bbox': [0, 0, 9, 9], 'iscrowd': 1},
            {'image_id': 5, 'category_id': 9, 'bbox': [0, 0, 5, 5], 'iscrowd': 0},
        ],
    }
    annotations.write_text(json.dumps(content))
    first, second = read_scenes(annotations, 'images', ('circle', 'square'))
    assert (first.id, first.path, len(first.objects)) == (2, Path('images/a.jpg'), 0)
    assert second.objects.boxes.tolist() == [[1, 2, 4, 6]]
    assert second.objects.labels.tolist() == [1]
    assert (first.crowded, second.crowded) == (False, True)


def test_predictions_are_cut_at_the_threshold_and_sorted(tmp_path: Path) -> None:
    path = tmp_path / 'predictions.pkl'
    instances = {
        'bboxes': torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]]),
        'labels': torch.tensor([4, 5, 6]),
        'scores': torch.tensor([0.5, 0.1, 0.75]),
    }
    path.write_bytes(pickle.dumps([{'img_id': 11, 'pred_instances': instances}]))
    predictions = read_predictions(path, score_threshold=0.5)
    assert list(predictions) == [11]
    assert predictions[11].labels.tolist() == [6, 4]
    assert predictions[11].boxes[:, 2].tolist() == [3, 1]


def test_scenes_are_chosen_for_the_classes_that_they_add() -> None:
    def with_labels(number: int, *labels: int, side: float = 50) -> Scene:
        boxes = [(60 * i, 0, 60 * i + side, side, label) for i, label in enumerate(labels)]
        return scene(objects(*boxes), number=number)

    scenes = [
        with_labels(0, 1, 1),
        with_labels(1, 1, 2),
        with_labels(2, 1, 2, 3, side=3),  # too small to be seen
        with_labels(3, 1, 2, 4),
        with_labels(4, 5, 6, 7, 8, 9),  # too many
        with_labels(5, 6, 7),
        scene(objects((0, 0, 50, 50, 8), (60, 0, 110, 50, 9)), number=6, crowded=True),
        scene(objects((0, 0, 50, 50, 8), (40, 0, 90, 50, 9)), number=7),  # one before the other
    ]
    assert [chosen.id for chosen in choose_scenes(scenes, 3)] == [3, 5, 0]
    # With too few of these, others are shown.
    assert len(choose_scenes(scenes, 7)) == 7
    assert choose_scenes([], 2) == []
