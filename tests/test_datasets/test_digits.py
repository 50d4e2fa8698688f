"""scikit-learn's digits: who wrote what is kept apart, and outlines are those of the images."""

from __future__ import annotations

from difflib import SequenceMatcher

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from sklearn.datasets import load_digits

from mmkd.datasets import make_shapes
from mmkd.datasets.contours import place, rasterise, signed_area
from mmkd.datasets.digits import (
    FORM_STARTS,
    contours_of,
    outline_of,
    photographs,
)
from mmkd.datasets.objects import OBJECT_SETS


def test_every_form_is_the_same_text():
    labels = ''.join(map(str, load_digits().target))
    ends = [*FORM_STARTS[1:], len(labels)]
    forms = [labels[start:end] for start, end in zip(FORM_STARTS, ends, strict=True)]
    assert len(forms) == 14
    text = forms[0]
    assert text.startswith('0123456789' * 3)
    assert max(map(len, forms)) == len(text) == 130
    # A few digits are missing in some; a form that was cut in the wrong place would have lost many more.
    assert all(SequenceMatcher(None, text, form).ratio() > 0.93 for form in forms)


def test_splits_share_no_form_and_leave_no_image_out():
    images, labels = zip(*map(photographs, ('train', 'val', 'test')), strict=True)
    data = load_digits()
    assert [len(split) for split in images] == [1029, 386, 382]
    assert set(np.cumsum([len(split) for split in images[:2]])) <= set(FORM_STARTS)
    np.testing.assert_array_equal(np.concatenate(labels), data.target)
    np.testing.assert_array_equal(
        np.concatenate(images), np.rint(data.images / 16 * 255).astype(np.uint8)
    )


@pytest.mark.parametrize('digit', range(10))
def test_an_outline_is_that_of_the_image(digit):
    images, labels = photographs('val')
    for image in images[labels == digit][:5]:
        contours = contours_of(image)
        area = abs(sum(map(signed_area, contours)))
        # Drawn at its own size again (8 units a pixel), it covers where the ink is.
        drawn = rasterise(place(contours, np.sqrt(area) / 8, 0.0, np.array([4.0, 4.0])), 8)
        ink = np.float32(image)
        columns, rows = (np.flatnonzero((ink > 100).any(axis=axis)) for axis in (0, 1))
        shift = np.float32(
            [
                [1, 0, 4 - (columns[0] + columns[-1] + 1) / 2],
                [0, 1, 4 - (rows[0] + rows[-1] + 1) / 2],
            ]
        )
        centred = cv2.warpAffine(ink, shift, (8, 8))
        assert np.corrcoef(centred.ravel(), np.float32(drawn).ravel())[0, 1] > 0.75


def test_outlines_of_the_splits_come_from_different_images():
    train, val = (
        {
            tuple(np.concatenate(outline_of(3, split)(np.random.default_rng(i))).ravel())
            for i in range(40)
        }
        for split in ('train', 'val')
    )
    assert len(train) > 15
    assert not train & val


def test_a_zero_has_its_hole():
    contours = outline_of(0, 'train')(np.random.default_rng(0))
    areas = [signed_area(contour) for contour in contours]
    assert len(areas) == 2
    assert min(areas) < 0 < max(areas)


def test_digits_are_objects_of_scenes_upright_and_within_the_image(tmp_path):
    out = make_shapes(tmp_path / 'digits', train=1, val=24, categories='digits', workers=1)
    coco = COCO(out / 'annotations/instances_val2017.json')
    assert [category['name'] for category in coco.dataset['categories']] == list('0123456789')
    assert {category['supercategory'] for category in coco.dataset['categories']} == {'digit'}
    objects = [a for a in coco.dataset['annotations'] if not a['iscrowd']]
    assert len({a['category_id'] for a in objects}) == 10
    for annotation in objects:
        assert coco.annToMask(annotation).sum() == annotation['area'] > 0
    assert all(category.upright for category in OBJECT_SETS['digits'].categories('val'))
