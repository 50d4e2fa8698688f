"""The names of labels are those that MMDetection's own data sets give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DATASETS, DefaultScope
from tiny import fresh_hub

from mmkd.teachers.labels import label_names, metainfo_of, names_of_run

NAMES = ('a', 'bé', 'c')


def annotations(path: Path, order: str, **extra: Any) -> Path:
    """An annotation file whose categories are in this order; ids ascend in another."""
    names = dict(zip('abc', NAMES, strict=True))
    categories = [dict(id=ord('z') - ord(key), name=names[key]) for key in order]
    content = dict(extra, categories=categories, images=[], annotations=[])
    path.write_text(json.dumps(content, ensure_ascii=False))
    return path


def config(*files: Path, names: Any = NAMES) -> Config:
    sets = [
        dict(
            type='CocoDataset',
            data_root=str(file.parent),
            ann_file=file.name,
            metainfo=dict(classes=names),
            pipeline=[],
        )
        for file in files
    ]
    inner = sets[0] if len(sets) == 1 else dict(type='ConcatDataset', datasets=sets)
    wrapped = dict(type='RepeatDataset', times=2, dataset=inner)
    return Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=wrapped)))


def labels_of_mmdet(node: Config) -> list[str]:
    """Names in the order of the labels of the data set itself, by the ids of its annotation file."""
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(node.copy() | dict(serialize_data=False))
    categories = json.loads(Path(dataset.ann_file).read_text())['categories']
    names = {category['id']: category['name'] for category in categories}
    return [names[category] for category in sorted(dataset.cat2label, key=dataset.cat2label.get)]


@pytest.mark.parametrize('order', ['abc', 'cab', 'bca', 'ca'])
@pytest.mark.parametrize('filler', [0, 200_000])
def test_labels_are_those_of_coco_dataset(tmp_path: Path, order: str, filler: int) -> None:
    """Wherever the categories lie in the file; what it lacks comes last."""
    file = annotations(
        tmp_path / 'a.json', order, info=dict(categories='no "categories": []'), x=' ' * filler
    )
    found = config(file)
    expected = labels_of_mmdet(found.train_dataloader.dataset.dataset)
    assert list(label_names(found, NAMES))[: len(order)] == expected
    assert sorted(label_names(found, NAMES)) == sorted(NAMES)


def test_a_long_list_of_categories_is_read_whole(tmp_path: Path) -> None:
    names = [f'class number {number}' for number in range(5000)]
    content = dict(categories=[dict(id=k, name=name) for k, name in enumerate(names)], images=[])
    (tmp_path / 'long.json').write_text(json.dumps(content))
    assert list(label_names(config(tmp_path / 'long.json'), names[::-1])) == names


@pytest.mark.parametrize('content', ['', '{}', '{"categories": [{"id": 1', '{"categories": 3}'])
def test_a_file_that_says_nothing_leaves_the_names(tmp_path: Path, content: str) -> None:
    (tmp_path / 'a.json').write_text(content)
    assert label_names(config(tmp_path / 'a.json'), NAMES) == NAMES
    assert label_names(config(tmp_path / 'nowhere.json'), NAMES) == NAMES
    assert label_names(Config(dict(model={})), NAMES) == NAMES


def test_a_data_set_that_numbers_its_labels_otherwise_is_left_alone(tmp_path: Path) -> None:
    found = config(annotations(tmp_path / 'a.json', 'cab'))
    for kind in ('VOCDataset', 'Objects365V2Dataset'):
        found.train_dataloader.dataset.dataset.type = kind
        assert label_names(found, NAMES) == NAMES


@pytest.mark.parametrize('names', ['cab', 'abc', 'xab'])
def test_labels_of_folders_are_those_of_mmpretrain(tmp_path: Path, names: str) -> None:
    """Other names than the folders' are left alone: they say what a folder's class is called."""
    for name in 'bca':
        (tmp_path / 'train' / name).mkdir(parents=True)
        (tmp_path / 'train' / name / f'{name}.png').touch()
    inner = dict(
        type='CustomDataset',
        data_root=str(tmp_path),
        data_prefix='train',
        pipeline=[],
        metainfo=dict(classes=tuple(names)),
    )
    node = Config(dict(default_scope='mmpretrain', train_dataloader=dict(dataset=inner)))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        samples = [dict(each) for each in DATASETS.build(inner)]
    folders = {each['gt_label']: Path(each['img_path']).stem for each in samples}
    found = label_names(node, tuple(names))
    if names == 'xab':
        assert found == tuple(names)
    else:
        assert [found[label] for label in sorted(folders)] == [folders[0], folders[1], folders[2]]


def test_files_that_contradict_each_other_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmkd.teachers.labels.print_log', lambda text, *_: said.append(text))
    first, second = (annotations(tmp_path / f'{order}.json', order) for order in ('abc', 'cab'))
    assert label_names(config(first, first), NAMES) == NAMES
    assert not said
    label_names(config(first, second), NAMES)
    assert 'different orders' in said[0]


def test_a_run_is_asked_for_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmkd.teachers.labels.print_log', lambda text, *_: said.append(text))
    file = annotations(tmp_path / 'a.json', 'cab')
    ordered = (NAMES[2], NAMES[0], NAMES[1])
    fresh_hub(dataset_meta=dict(classes=NAMES), cfg=config(file).pretty_text)
    assert names_of_run(3) == ordered
    assert f'set metainfo.classes to {ordered}' in said[0]
    fresh_hub(dataset_meta=dict(classes=ordered), cfg=config(file, names=ordered).pretty_text)
    assert list(names_of_run(3) or ()) == list(ordered)
    assert len(said) == 1
    fresh_hub(dataset_meta=dict(classes=NAMES), cfg='train_dataloader = <DataLoader object>')
    assert names_of_run(3) == NAMES


def test_a_head_for_boxes_has_the_things_of_a_panoptic_data_set() -> None:
    fresh_hub(dataset_meta=dict(classes=('cat', 'dog', 'sky'), thing_classes=('cat', 'dog')))
    assert names_of_run(2) == ['cat', 'dog']
    assert names_of_run(3) == ('cat', 'dog', 'sky')


@pytest.mark.parametrize(
    ('name', 'number', 'first'),
    [
        ('mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py', 20, 'aeroplane'),
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 80, 'person'),
        ('mmdet::cityscapes/faster-rcnn_r50_fpn_1x_cityscapes.py', 8, 'person'),
        ('mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py', 1203, 'aerosol_can'),
        ('mmpretrain::resnet/resnet50_8xb32_in1k.py', 1000, 'tench, Tinca tinca'),
    ],
)
def test_published_configs_name_their_classes(name: str, number: int, first: str) -> None:
    """Within ConcatDataset, RepeatDataset or ClassBalancedDataset, and by the class of the data set alone."""
    classes = metainfo_of(get_config(name))['classes']
    assert len(classes) == number
    assert classes[0] == first
