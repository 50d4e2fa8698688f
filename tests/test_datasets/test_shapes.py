import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmkd.datasets import coco, contours, shapes
from mmkd.datasets.coco import CocoLayout
from mmkd.datasets.folders import _in_order
from mmkd.datasets.objects import CLASSES, OBJECT_SETS
from mmkd.datasets.shapes import make_shapes

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / 'tools/make_shapes.py')]
BASE_CONFIG = ROOT / 'configs/_base_/datasets/shapes_detection.py'

# Annotations of 4 + 8 images at seed 0. When it no longer holds, sets that users have on disk are
# not what the generator draws now: raise CocoLayout.version together with the new value.
PINNED_VERSION = '2'
PINNED_ANNOTATIONS = '1209713b715f09bde2d69827f6df7a0deec727cc8a40c9ce13662e2a2253fc4b'
PINNED_MEAN_COLOURS = [122.7, 104.7, 111.8, 77.2, 64.6, 164.5, 118.5, 175.8]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=24, val=120, workers=1)


@pytest.fixture(scope='module')
def val(folder):
    return COCO(folder / 'annotations/instances_val2017.json')


@pytest.fixture(scope='module')
def config():
    pytest.importorskip('mmdet')
    from mmengine.config import Config

    return Config.fromfile(BASE_CONFIG)


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def annotations(coco):
    return coco.dataset['annotations']


class TestAnnotations:
    def test_masks_areas_and_boxes_agree(self, val):
        for annotation in annotations(val):
            mask = val.annToMask(annotation)
            assert mask.shape == (128, 128)
            assert mask.sum() == annotation['area'] > 0
            assert coco_mask.toBbox(val.annToRLE(annotation)).tolist() == annotation['bbox']

    def test_masks_of_an_image_do_not_overlap(self, val):
        for image_id in val.imgs:
            masks = [val.annToMask(a) for a in val.loadAnns(val.getAnnIds(image_id))]
            assert np.sum(masks, axis=0).max(initial=0) <= 1

    def test_every_kind_of_content_is_there(self, val):
        found = annotations(val)
        objects = [a for a in found if not a['iscrowd']]
        crowds = [a for a in found if a['iscrowd']]
        with_objects = {a['image_id'] for a in found}
        assert len(crowds) == 3
        assert all(isinstance(a['segmentation']['counts'], list) for a in crowds)
        assert len(val.imgs) - len(with_objects) == 4
        assert {val.cats[a['category_id']]['name'] for a in objects} == set(CLASSES)
        sizes = Counter(
            'small' if a['area'] < 32**2 else 'medium' if a['area'] <= 96**2 else 'large'
            for a in objects
        )
        assert sizes['small'] > 0.3 * len(objects)
        assert sizes['medium'] > 0.3 * len(objects)
        assert sizes['large'] > 0.02 * len(objects)
        # Occlusion cuts some objects in two; holes need run lengths.
        polygon_counts = [
            len(a['segmentation']) for a in objects if type(a['segmentation']) is list
        ]
        assert max(polygon_counts) > 1
        assert 0 < len(objects) - len(polygon_counts) < 0.2 * len(objects)

    def test_ids_are_unique_over_the_splits(self, folder, val):
        train, test = (
            COCO(folder / f'annotations/instances_{split}2017.json') for split in ('train', 'test')
        )
        for key in ('images', 'annotations'):
            ids = [record['id'] for coco in (train, val, test) for record in coco.dataset[key]]
            assert len(set(ids)) == len(ids)
            assert min(ids) > 0

    def test_image_files_are_those_listed(self, folder, val):
        listed = {image['file_name'] for image in val.imgs.values()}
        assert listed == {path.name for path in (folder / 'val2017').iterdir()}
        for image in val.imgs.values():
            pixels = cv2.imread(str(folder / 'val2017' / image['file_name']))
            assert pixels.shape == (image['height'], image['width'], 3)
            assert pixels.std() > 3

    def test_ground_truth_scores_full_marks_at_every_scale(self, val):
        detections = [
            {key: a[key] for key in ('image_id', 'category_id', 'bbox')} | {'score': 1.0}
            for a in annotations(val)
            if not a['iscrowd']
        ]
        evaluation = COCOeval(val, val.loadRes(detections), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        ap, _, _, *ap_by_scale = evaluation.stats[:6]
        assert [ap, *ap_by_scale] == pytest.approx([1, 1, 1, 1])


class TestMasks:
    @pytest.mark.parametrize('density', [0.15, 0.5, 0.97])
    def test_encodings_are_exact_for_any_mask(self, density):
        rng = np.random.default_rng(0)
        with_holes = 0
        for _ in range(50):
            mask = rng.random((9, 12)) < density
            mask[0, 0] |= not mask.any()
            outline = coco.polygons(mask)
            counts = coco_mask.decode(coco_mask.frPyObjects(coco.run_lengths(mask), 9, 12))
            np.testing.assert_array_equal(counts, mask)
            if outline is None:
                with_holes += 1
                continue
            drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outline, 9, 12)))
            np.testing.assert_array_equal(drawn, mask)
        assert with_holes < 50

    def test_a_hole_has_no_polygon(self):
        mask = np.ones((5, 5), dtype=bool)
        assert coco.polygons(mask) == [[0, 0, 0, 5, 5, 5, 5, 0]]
        mask[2, 2] = False
        assert coco.polygons(mask) is None

    @pytest.mark.parametrize('category', OBJECT_SETS['shapes'].categories('train'), ids=CLASSES)
    def test_outlines_fill_the_area_asked_for(self, category):
        for seed in range(5):
            outline = category.outline(np.random.default_rng(seed))
            placed = contours.place(outline, 40, 0.3, np.array([64, 64]))
            assert contours.rasterise(placed, 128).sum() / 255 == pytest.approx(40**2, rel=0.04)


class TestReproducibility:
    def test_bytes_depend_on_neither_workers_nor_count(self, tmp_path):
        one = hashes(make_shapes(tmp_path / 'one', train=20, val=3, workers=1))
        two = hashes(make_shapes(tmp_path / 'two', train=20, val=3, workers=2))
        fewer = hashes(make_shapes(tmp_path / 'fewer', train=5, val=3, workers=1))
        assert one == two
        images = {name: digest for name, digest in fewer.items() if name.endswith('.jpg')}
        assert len(images) == 11
        assert images.items() <= one.items()

    def test_seeds_and_splits_differ(self, tmp_path):
        first = hashes(make_shapes(tmp_path / '0', train=4, val=4, seed=0, workers=1))
        other = hashes(make_shapes(tmp_path / '1', train=4, val=4, seed=1, workers=1))
        assert first.keys() == other.keys()
        images = [d for h in (first, other) for name, d in h.items() if name.endswith('.jpg')]
        assert len(set(images)) == 24

    def test_what_is_drawn_changes_with_the_version_only(self, tmp_path):
        folder = make_shapes(tmp_path / 'shapes', train=4, val=8, workers=1)
        digest = hashlib.sha256()
        for path in sorted((folder / 'annotations').iterdir()):
            digest.update(path.read_bytes())
        # Pixels may differ by a rounding between builds of OpenCV, their means hardly.
        colours = [cv2.imread(str(p)).mean() for p in sorted((folder / 'val2017').iterdir())]
        assert CocoLayout.version == PINNED_VERSION
        assert digest.hexdigest() == PINNED_ANNOTATIONS
        assert colours == pytest.approx(PINNED_MEAN_COLOURS, abs=0.5)


class TestFolder:
    def test_complete_set_is_left_alone(self, tmp_path):
        out = make_shapes(tmp_path / 'shapes', train=2, val=2, workers=1)
        before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
        lines = []
        make_shapes(out, train=2, val=2, workers=2, log=lines.append)
        assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before
        assert lines == [f'{out}: complete, nothing to do']

    @pytest.mark.parametrize(
        ('change', 'reason'),
        [
            ({'seed': 3}, 'train2017 has seed 0 instead of 3'),
            ({'val': 1}, 'val2017 has images 2 instead of 1'),
            ({'size': 64}, 'train2017 has size 128 instead of 64'),
            ({'categories': 'coco80'}, "train2017 has categories 'shapes' instead of 'coco80'"),
        ],
    )
    def test_set_of_other_arguments_is_replaced(self, tmp_path, change, reason):
        arguments = {'train': 2, 'val': 2, 'workers': 1}
        out = make_shapes(tmp_path / 'shapes', **arguments)
        lines = []
        make_shapes(out, **arguments | change, log=lines.append)
        assert lines[0] == f'{out}: {reason}; making it'
        fresh = make_shapes(tmp_path / 'fresh', **arguments | change)
        assert hashes(out) == hashes(fresh)

    def test_set_of_another_version_or_with_lost_images_is_replaced(self, tmp_path, monkeypatch):
        arguments = {'train': 2, 'val': 2, 'workers': 1}
        monkeypatch.setattr(CocoLayout, 'version', '0')
        out = make_shapes(tmp_path / 'shapes', **arguments)
        monkeypatch.undo()
        lines = []
        make_shapes(out, **arguments, log=lines.append)
        assert f"train2017 has version '0' instead of '{CocoLayout.version}'" in lines[0]
        shutil.rmtree(out / 'test2017')
        (out / 'annotations/instances_test2017.json').unlink()
        make_shapes(out, **arguments, log=lines.append)
        assert len(list((out / 'test2017').iterdir())) == 2
        next((out / 'val2017').iterdir()).unlink()
        make_shapes(out, **arguments, log=lines.append)
        assert len(list((out / 'val2017').iterdir())) == 2

    @pytest.mark.parametrize('name', ['notes.txt', 'annotations/instances_train2017.json'])
    def test_files_of_others_are_never_touched(self, tmp_path, name):
        path = tmp_path / 'coco' / name
        path.parent.mkdir(parents=True)
        path.write_text('{"info": {"description": "COCO 2017 Dataset"}}')
        with pytest.raises(FileExistsError, match=r'did not write .*give a new or an empty one'):
            make_shapes(tmp_path / 'coco', train=1, val=1, workers=1)
        assert [p for p in tmp_path.rglob('*') if p.is_file()] == [path]

    def test_failure_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(coco, '_annotation', interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_shapes(tmp_path / 'shapes', train=4, val=1, workers=1)
        assert list(tmp_path.iterdir()) == []

    def test_failure_keeps_the_set_that_was_to_be_replaced(self, tmp_path, monkeypatch):
        out = make_shapes(tmp_path / 'shapes', train=2, val=2, workers=1)
        before = hashes(out)
        monkeypatch.setattr(cv2, 'imwrite', lambda *_: False)
        with pytest.raises(OSError, match='could not be written'):
            make_shapes(out, train=3, val=2, workers=1)
        assert hashes(out) == before

    def test_killed_run_is_not_taken_for_a_complete_one(self, tmp_path):
        out = tmp_path / 'shapes'
        command = [*COMMAND, str(out), '--train', '100000', '--workers', '1']
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {'PYTHONPATH': str(ROOT)})
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob('*.jpg')) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(tmp_path.rglob('*.jpg'))
        assert not out.exists()
        make_shapes(out, train=1, val=1, workers=1)
        assert len(list(out.rglob('*.jpg'))) == 3

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'train': 0}, 'train must be at least 1, not 0'),
            ({'val': -1}, 'val must be at least 1, not -1'),
            ({'size': 63}, 'size must be at least 64, not 63'),
            ({'seed': -1}, 'seed must be at least 0, not -1'),
            ({'workers': 0}, 'workers must be at least 1, not 0'),
            (
                {'categories': 'coco'},
                "categories must be one of shapes, textured, digits, coco80, not 'coco'",
            ),
        ],
    )
    def test_arguments_out_of_range(self, tmp_path, arguments, message):
        with pytest.raises(ValueError, match=message):
            make_shapes(tmp_path / 'shapes', **arguments)
        assert list(tmp_path.iterdir()) == []


class TestCategories:
    def test_coco80_has_the_names_and_ids_of_coco(self, tmp_path):
        out = make_shapes(tmp_path / 'shapes', train=1, val=40, categories='coco80', workers=1)
        coco = COCO(out / 'annotations/instances_val2017.json')
        names = {category['id']: category['name'] for category in coco.dataset['categories']}
        assert len(names) == 80
        facts = {1: 'person', 13: 'stop sign', 27: 'backpack', 46: 'wine glass', 67: 'dining table'}
        facts |= {70: 'toilet', 72: 'tv', 84: 'book', 90: 'toothbrush'}
        assert facts.items() <= names.items()
        assert len({a['category_id'] for a in annotations(coco)}) > 40

    def test_coco80_categories_look_different(self):
        looks = {
            (category.outline, category.finish)
            for category in OBJECT_SETS['coco80'].categories('val')
        }
        assert len(looks) == 80

    def test_small_images_have_no_large_objects(self, tmp_path):
        out = make_shapes(tmp_path / 'shapes', train=1, val=16, size=64, workers=1)
        coco = COCO(out / 'annotations/instances_val2017.json')
        assert 0 < max(a['area'] for a in annotations(coco)) < 64**2


class TestCommand:
    def test_help_documents_every_argument_of_the_function(self, capsys):
        with pytest.raises(SystemExit, match='0'):
            shapes.main(['--help'])
        text = capsys.readouterr().out
        for word in (
            '--train',
            '--val',
            '--size',
            '--seed',
            '--objects',
            '--workers',
            '--task',
            'out',
        ):
            assert word in text
        assert 'not as a benchmark' in ' '.join(text.split())

    def test_writes_what_the_function_writes(self, tmp_path, capsys):
        shapes.main(
            [
                str(tmp_path / 'a'),
                '--train',
                '2',
                '--val',
                '1',
                '--test',
                '3',
                '--seed',
                '5',
                '--size',
                '96',
            ]
        )
        assert '2 + 1 + 3 images' in capsys.readouterr().out
        make_shapes(tmp_path / 'b', train=2, val=1, test=3, seed=5, size=96, workers=1)
        assert hashes(tmp_path / 'a') == hashes(tmp_path / 'b')

    def test_bad_argument_is_one_line(self, tmp_path, capsys):
        with pytest.raises(SystemExit, match='2'):
            shapes.main([str(tmp_path / 'a'), '--train', '0'])
        assert capsys.readouterr().err == 'mmkd make-data: train must be at least 1, not 0\n'

    def test_loads_neither_pytorch_nor_openmmlab(self):
        code = (
            'import runpy, sys; runpy.run_path(sys.argv[1]); '
            "print({'torch', 'mmcv', 'mmdet', 'sklearn'} & set(sys.modules))"
        )
        command = [sys.executable, '-c', code, shapes.__file__]
        assert subprocess.check_output(command, text=True) == 'set()\n'


class TestMMDetection:
    def build(self, settings, folder, **changes):
        from mmdet.registry import DATASETS
        from mmengine.registry import init_default_scope

        init_default_scope('mmdet')
        return DATASETS.build(settings | {'data_root': str(folder)} | changes)

    def test_base_config_names_the_classes(self, config):
        for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
            assert loader.dataset.metainfo.classes == CLASSES
        assert len({tuple(colour) for colour in config.metainfo.palette}) == len(CLASSES)

    def test_training_set_keeps_images_without_objects(self, config, folder):
        dataset = self.build(config.train_dataloader.dataset, folder)
        assert len(dataset) == 24
        boxes = [len(dataset[i]['data_samples'].gt_instances) for i in range(24)]
        assert boxes[3] == 0
        assert sum(boxes) > 24

    def test_validation_set_is_read_as_written(self, config, folder, val):
        dataset = self.build(config.val_dataloader.dataset, folder)
        assert len(dataset) == 120
        for i in (0, 1, 6):
            sample = dataset[i]['data_samples']
            written = val.loadAnns(val.getAnnIds(sample.img_id))
            truth = [a['bbox'] for a in written if not a['iscrowd']]
            boxes = sample.gt_instances.bboxes.tensor.numpy()
            np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], np.array(truth)[:, 2:])
            names = [val.cats[a['category_id']]['name'] for a in written if not a['iscrowd']]
            assert [CLASSES[label] for label in sample.gt_instances.labels] == names
            assert len(sample.ignored_instances) == sum(a['iscrowd'] for a in written)

    def test_coco80_fits_the_classes_of_mmdet(self, config, tmp_path):
        from mmdet.datasets import CocoDataset

        folder = make_shapes(tmp_path / 'a', train=4, val=4, categories='coco80', workers=1)
        info = json.loads((folder / 'annotations/instances_val2017.json').read_text())
        names = tuple(category['name'] for category in info['categories'])
        assert names == CocoDataset.METAINFO['classes']
        dataset = self.build(config.val_dataloader.dataset, folder, metainfo=None)
        assert len(dataset.cat_ids) == 80


def ends_by_sigterm(_: int) -> bool:
    return signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_workers_can_be_ended_whatever_the_parent_does_with_sigterm() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        assert all(_in_order(ends_by_sigterm, 4, workers=2))
    finally:
        signal.signal(signal.SIGTERM, before)
