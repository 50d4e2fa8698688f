from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from mmdet.datasets import CocoDataset

from mmkd.report import Objects, Scene, choose_scenes, match, read_predictions, read_scenes


def objects(*rows: tuple[float, ...]) -> Objects:
    """Objects from rows of x1, y1, x2, y2, label."""
    values = np.array(rows, dtype=float).reshape(-1, 5)
    return Objects(values[:, :4], values[:, 4].astype(int))


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


def test_an_image_to_show_has_a_few_objects_apart(tmp_path: Path) -> None:
    first, second = [0, 0, 50, 50], [60, 0, 50, 50]
    images = [
        [first, second],
        [first, [0, 60, 3, 3]],  # too small to be seen
        [first, [60, 0, 68, 128]],  # too large
        [first, [40, 0, 50, 50]],  # one before the other
        [first],
        [first, second, [60, 60, 40, 40]],  # a crowd
        [],
    ]
    content = dict(
        categories=[dict(id=3, name='circle'), dict(id=7, name='square')],
        images=[
            dict(id=9 - index, file_name=f'{index}.jpg', height=128, width=128)
            for index in range(len(images))
        ],
        annotations=[
            dict(
                id=10 * index + place, image_id=9 - index, category_id=7 if place else 3,
                bbox=box, area=box[2] * box[3], iscrowd=int(place == 2),
            )
            for index, boxes in enumerate(images)
            for place, box in enumerate(boxes)
        ],
    )  # fmt: skip
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    dataset = CocoDataset(
        ann_file=str(tmp_path / 'boxes.json'),
        data_prefix=dict(img='images'),
        metainfo=dict(classes=('circle', 'square')),
        test_mode=True,
    )
    scenes = read_scenes(dataset)
    assert [(each.id, each.is_clear) for each in scenes] == [
        (3, False), (4, False), (5, False), (6, False), (7, False), (8, False), (9, True),
    ]  # fmt: skip
    assert len(scenes[1].objects) == 2, 'the crowd is no object'
    assert scenes[-1].path == Path('images/0.jpg')
    assert scenes[-1].objects.boxes.tolist() == [[0, 0, 50, 50], [60, 0, 110, 50]]
    assert scenes[-1].objects.labels.tolist() == [0, 1]


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
    def with_labels(number: int, *labels: int, clear: bool = True) -> Scene:
        boxes = [(0, 0, 9, 9, label) for label in labels]
        return Scene(number, Path('x.jpg'), objects(*boxes), clear)

    scenes = [
        with_labels(0, 1, 1),
        with_labels(1, 1, 2),
        with_labels(2, 5, 6, 7, 8, clear=False),
        with_labels(3, 1, 2, 4),
        with_labels(5, 6, 7),
    ]
    assert [chosen.id for chosen in choose_scenes(scenes, 3)] == [3, 5, 0]
    # With too few of these, others are shown.
    assert len(choose_scenes(scenes, 5)) == 5
    assert choose_scenes([], 2) == []
