from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import torch

from mmkd.report import Objects, Scene, match, read_predictions, read_scenes, spread_scenes


def objects(*rows: tuple[float, ...], scores: tuple[float, ...] | None = None) -> Objects:
    """Objects from rows of x1, y1, x2, y2, label."""
    values = np.array(rows, dtype=float).reshape(-1, 5)
    labels = values[:, 4].astype(int)
    return Objects(values[:, :4], labels, None if scores is None else np.array(scores))


def scene(annotated: Objects, crowds: tuple = (), number: int = 1) -> Scene:
    return Scene(number, Path('x.jpg'), annotated, np.array(crowds, dtype=float).reshape(-1, 4))


def test_an_object_is_found_once_by_the_most_certain_detection_of_its_class() -> None:
    annotated = scene(objects((0, 0, 10, 10, 0), (20, 20, 30, 30, 1)))
    detections = objects(
        (0, 0, 10, 9, 0),  # IoU 0.9
        (0, 0, 10, 10, 0),  # better, but the object is taken
        (20, 20, 30, 30, 0),  # another class
    )
    matches = match(detections, annotated)
    assert matches.correct.tolist() == [True, False, False]
    assert matches.found.tolist() == [True, False]
    assert not matches.ignored.any()


def test_the_threshold_is_inclusive() -> None:
    annotated = scene(objects((0, 0, 10, 10, 0)))
    assert match(objects((0, 0, 10, 5, 0)), annotated).correct.tolist() == [True]
    assert match(objects((0, 0, 10, 4.9, 0)), annotated).correct.tolist() == [False]


def test_a_detection_takes_the_object_that_it_overlaps_most() -> None:
    annotated = scene(objects((0, 0, 10, 8, 0), (0, 0, 10, 10, 0)))
    matches = match(objects((0, 0, 10, 10, 0), (0, 0, 10, 8, 0)), annotated)
    assert matches.correct.tolist() == [True, True]
    assert matches.found.tolist() == [True, True]


def test_detections_in_a_crowd_do_not_count() -> None:
    annotated = scene(objects((0, 0, 10, 10, 0)), crowds=((50, 50, 90, 90),))
    detections = objects((55, 55, 60, 60, 3), (0, 0, 10, 10, 0), (100, 0, 110, 10, 0))
    matches = match(detections, annotated)
    assert matches.ignored.tolist() == [True, False, False]
    assert matches.correct.tolist() == [False, True, False]


def test_nothing_against_nothing_and_a_box_without_extent() -> None:
    empty = match(objects(), scene(objects()))
    assert len(empty.correct) == len(empty.found) == len(empty.ignored) == 0
    assert match(objects(), scene(objects((0, 0, 9, 9, 0)))).found.tolist() == [False]
    assert match(objects((3, 3, 3, 3, 0)), scene(objects((0, 0, 9, 9, 0)))).correct.tolist() == [
        False
    ]


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
    assert second.crowds.tolist() == [[0, 0, 9, 9]]


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
    assert predictions[11].scores is not None
    assert predictions[11].scores.tolist() == [0.75, 0.5]


def test_scenes_are_spread_over_those_with_enough_to_see() -> None:
    four = objects(*[(0, 0, 9, 9, 0)] * 4)
    scenes = [scene(four, number=number) for number in range(10)]
    scenes[0] = scene(objects(), number=0)
    scenes[5] = scene(four, crowds=((0, 0, 9, 9),), number=5)
    assert [chosen.id for chosen in spread_scenes(scenes, 4)] == [1, 3, 6, 8]
    assert [chosen.id for chosen in spread_scenes(scenes[:2], 5)] == [0, 1]
