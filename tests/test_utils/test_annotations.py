from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmkd.utils import annotations
from mmkd.utils.annotations import coco_damage, json_damage

CLASSES = ('cat', 'polar bear')
IMAGE = dict(id=1, file_name='1.jpg', height=9, width=9)
BOX = dict(id=1, image_id=1, category_id=7, bbox=[0, 0, 1, 1], area=1)


def coco(**changes: Any) -> dict[str, Any]:
    return dict(
        images=[IMAGE],
        annotations=[BOX],
        categories=[dict(id=5, name='cat'), dict(id=7, name='polar bear')],
    ) | dict(changes)


def without(item: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != name}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / 'annotations.json'


def damage(file: Path, content: Any, classes: Any = CLASSES, **options: Any) -> str:
    file.write_text(json.dumps(content))
    return coco_damage(str(file), classes, **options) or ''


def test_a_file_with_the_classes_in_any_order_is_whole(file: Path) -> None:
    assert damage(file, coco()) == damage(file, coco(), CLASSES[::-1]) == ''
    assert damage(file, coco(), None) == damage(file, coco(), ('cat',)) == ''
    assert json_damage(str(file)) is None


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([], 'holds a list'),
        (coco(annotations=[]), 'no annotations'),
        (coco(categories=[]), 'no categories'),
        (dict(info={}), 'no images and no categories and no annotations'),
        (coco(categories=['cat']), 'not what COCO has'),
        (coco(annotations=[dict(category_id=9)]), 'category_id 9, which its categories do not'),
        (coco(annotations=[[0, 0, 1, 1]]), 'not what COCO has'),
        (coco(images=[dict(id=1, file_name='1.jpg')]), "1 of its 1 images have no 'height'"),
        (coco(annotations=[BOX, without(BOX, 'bbox')]), "1 of its 2 annotations have no 'bbox'"),
        (coco(annotations=[without(BOX, 'area')]), "annotations have no 'area'"),
        (coco(images=[IMAGE | dict(id='1')]), 'the image_id of no annotation'),
    ],
)
def test_what_coco_has_and_the_file_lacks_is_named(file: Path, content: Any, message: str) -> None:
    assert message in damage(file, content)


def test_images_alone_are_enough_to_predict(file: Path) -> None:
    content = coco()
    del content['annotations']
    assert damage(file, content, needs_objects=False) == ''


def test_strange_names_are_listed_with_the_nearest_first(file: Path) -> None:
    said = damage(file, coco(), ('cat', 'Polar Bear', 'dog'))
    assert "3 classes 'Polar Bear', 'dog' are not among the file's 2, 'polar bear', 'cat'" in said


def test_a_single_name_has_to_be_in_a_tuple(file: Path) -> None:
    assert "give a tuple of names, ('cat',)" in damage(file, coco(), 'cat')


@pytest.mark.parametrize('first', ['categories', 'images'])
def test_of_a_large_file_the_categories_are_looked_at(
    file: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(annotations, 'PARSED_JSON_BYTES', 10)
    content = coco()
    content = {first: content.pop(first), **content}
    assert damage(file, content) == ''
    assert "'dog' are not among" in damage(file, content, ('dog',))
    del content['categories']
    assert damage(file, content, ('dog',)) == ''
