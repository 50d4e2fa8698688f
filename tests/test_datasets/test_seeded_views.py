from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from mmkd.datasets.seeded_views import SeededViews, ViewedBatches
from mmkd.datasets.unreadable import skip_unreadable

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
MIXED = [
    dict(type='Mosaic', img_scale=(32, 32)),
    dict(type='RandomAffine', border=(-16, -16)),
    dict(type='MixUp', img_scale=(32, 32)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomChoiceResize', scales=[(32, 32), (48, 48)]),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs', meta_keys=('img_id',)),
]
CLASSIFIED = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=16),
    dict(type='AutoAugment', policies='imagenet'),
    dict(type='RandomErasing', erase_prob=0.5, mode='rand'),
    dict(type='torchvision/ToPILImage'),
    dict(type='torchvision/ColorJitter', brightness=0.5),
    dict(type='torchvision/PILToTensor'),
    dict(type='mmpretrain.PackInputs', meta_keys=()),
]


@pytest.fixture(autouse=True)
def _no_scope_left() -> Iterator[None]:
    yield
    DefaultScope._instance_dict.clear()


def in_scope(name: str, dataset: dict[str, Any]) -> Any:
    """Built as a Runner does that has this ``default_scope``."""
    DefaultScope._instance_dict.clear()
    init_default_scope(name)
    return DATASETS.build(dataset)


@pytest.fixture
def coco(tiny_config: Config) -> dict[str, Any]:
    return tiny_config.train_dataloader.dataset.to_dict()


@pytest.fixture
def mixed(coco: dict[str, Any]) -> Callable[..., SeededViews]:
    def build(**options: Any) -> SeededViews:
        inner = dict(type='MultiImageMixDataset', dataset=dict(coco, pipeline=LOAD), pipeline=MIXED)
        return in_scope('mmdet', dict(type='mmkd.SeededViews', dataset=inner, **options))

    return build


@pytest.fixture
def classified(tiny_imagenet: Path) -> Callable[..., SeededViews]:
    def build(**options: Any) -> SeededViews:
        inner = dict(
            type='CustomDataset',
            data_root=str(tiny_imagenet),
            data_prefix='train',
            pipeline=CLASSIFIED,
        )
        return in_scope('mmpretrain', dict(type='mmkd.SeededViews', dataset=inner, **options))

    return build


@pytest.fixture(params=['mixed', 'classified'])
def build(request: pytest.FixtureRequest) -> Callable[..., SeededViews]:
    """Makes seeded views around a data set of MMDetection, and of MMPretrain."""
    return request.getfixturevalue(request.param)


def content(sample: dict[str, Any]) -> list[Any]:
    """All that a sample holds, comparable bit for bit."""
    data: BaseDataElement = sample['data_samples']
    boxes = data.gt_instances.bboxes.tensor if 'gt_instances' in data else data.gt_label
    return [
        sample['inputs'].shape,
        sample['inputs'].numpy().tobytes(),
        boxes.numpy().tobytes(),
        sorted(data.metainfo.items()),
    ]


def loaded(
    dataset: SeededViews, keys: Sequence[tuple[int, int]], workers: int, **options: Any
) -> dict[tuple[int, int], list[Any]]:
    """Content of the samples by their key, from a data loader."""
    loader = DataLoader(
        dataset,
        batch_sampler=[keys[start : start + 2] for start in range(0, len(keys), 2)],
        num_workers=workers,
        collate_fn=pseudo_collate,
        **options,
    )
    samples = [
        dict(inputs=inputs, data_samples=data)
        for batch in loader
        for inputs, data in zip(batch['inputs'], batch['data_samples'], strict=True)
    ]
    return {key: content(sample) for key, sample in zip(keys, samples, strict=True)}


KEYS = [(index, epoch) for epoch in (0, 1) for index in (0, 3, 5, 7)]


def test_a_sample_is_the_same_in_any_order_and_any_worker(
    build: Callable[..., SeededViews],
) -> None:
    expected = {key: content(build()[key]) for key in KEYS}  # from a fresh data set each
    assert len({value[1] for value in expected.values()}) == len(KEYS)
    shuffled = random.Random(0).sample(KEYS, len(KEYS))
    for workers in (0, 1, 2):
        np.random.seed(workers)  # what was drawn before is of no matter
        assert loaded(build(), shuffled, workers) == expected


def test_a_sample_is_the_same_in_a_process_that_forked_nothing(
    mixed: Callable[..., SeededViews],
) -> None:
    dataset = mixed(views=2)
    expected = {key: content(dataset[key]) for key in KEYS[:2]}
    assert loaded(dataset, KEYS[:2], workers=1, multiprocessing_context='spawn') == expected


def test_views_repeat_and_without_them_every_epoch_is_new(
    build: Callable[..., SeededViews],
) -> None:
    endless, two = build(), build(views=2)

    def pixels(dataset: SeededViews) -> list[Any]:
        return [content(dataset[1, epoch])[1] for epoch in range(4)]

    assert len(set(pixels(endless))) == 4
    assert pixels(two) == pixels(endless)[:2] * 2
    assert pixels(build(seed=1))[0] != pixels(endless)[0]


def test_a_sample_says_which_it_is_whatever_the_pipeline_packs(
    build: Callable[..., SeededViews],
) -> None:
    dataset = build(views=3, seed=4)
    meta = dataset[5, 7]['data_samples'].metainfo
    assert (meta['sample_index'], meta['view']) == (5, 1)
    assert build()[5, 7]['data_samples'].view == 7
    assert (dataset.views, dataset.seed) == (3, 4)


def test_the_generators_stay_as_they_were(build: Callable[..., SeededViews]) -> None:
    def draw() -> list[float]:
        random.seed(1)
        np.random.seed(2)
        torch.manual_seed(3)
        if around is not None:
            around[2, 0]
        return [random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()]

    around: SeededViews | None = None
    before = draw()
    around = build()
    assert draw() == before
    random.seed(1)
    with pytest.raises(IndexError, match='index 8 of 8'):
        around[8, 0]
    assert random.random() == before[0]


def _fail(results: dict[str, Any]) -> Any:
    return 1 / 0


def test_they_are_put_back_after_an_error_too(coco: dict[str, Any]) -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=1.0), _fail]
    broken = in_scope('mmdet', dict(type='mmkd.SeededViews', dataset=dict(coco, pipeline=pipeline)))
    random.seed(1)
    expected = random.random()
    random.seed(1)
    with pytest.raises(ZeroDivisionError, match='division'):
        broken[0, 0]
    assert random.random() == expected


def test_replaced_images_are_replaced_by_the_same_ones(
    coco: dict[str, Any], tiny_coco: Path, tmp_path: Path
) -> None:
    images = tmp_path / 'train2017'
    images.mkdir()
    for number, path in enumerate(sorted((tiny_coco / 'train2017').iterdir())):
        if number % 2:
            (images / path.name).write_bytes(b'no image')
        else:
            cv2.imwrite(str(images / path.name), cv2.imread(str(path)))
    pipeline = [*LOAD, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
    inner = dict(coco, data_prefix=dict(img=str(images)), pipeline=pipeline, max_refetch=100)
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='mmkd.SeededViews', dataset=inner))))
    assert skip_unreadable(cfg) == 1
    dataset = in_scope('mmdet', cfg.train_dataloader.dataset)
    keys = [(1, epoch) for epoch in range(6)]

    expected = {key: content(dataset[key]) for key in keys}

    assert len({value[1] for value in expected.values()}) > 1
    assert dataset[1, 4]['data_samples'].sample_index == 1
    assert dataset[1, 4]['data_samples'].num_samples == len(dataset)
    assert loaded(dataset, keys[::-1], workers=2) == expected


@pytest.mark.parametrize(
    ('options', 'setting'),
    [
        (dict(views=0), 'views'),
        (dict(views=-1), 'views'),
        (dict(views=1.5), 'views'),
        (dict(views=True), 'views'),
        (dict(seed=-1), 'seed'),
        (dict(seed=None), 'seed'),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], setting: str) -> None:
    with pytest.raises(ValueError, match=rf'SeededViews\.{setting}'):
        SeededViews([1], **options)


def test_what_it_cannot_wrap_is_refused(coco: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match='dataset'):
        in_scope('mmdet', dict(type='mmkd.SeededViews'))
    with pytest.raises(TypeError, match=r'SeededViews\.dataset'):
        in_scope('mmdet', dict(type='mmkd.SeededViews', dataset=None))
    views = dict(type='mmkd.SeededViews', dataset=coco)
    repeated = dict(type='RepeatDataset', dataset=views, times=2)
    with pytest.raises(ValueError, match='only the outermost'):
        in_scope('mmdet', dict(type='mmkd.SeededViews', dataset=repeated))
    with pytest.raises(ValueError, match=r'test_mode.*train_dataloader'):
        in_scope('mmdet', dict(type='mmkd.SeededViews', dataset=dict(coco, test_mode=True)))


def test_without_an_epoch_it_says_what_is_missing(coco: dict[str, Any]) -> None:
    dataset = in_scope('mmdet', dict(type='mmkd.SeededViews', dataset=coco))
    with pytest.raises(TypeError, match='SeededViewsHook'):
        next(iter(DataLoader(dataset, num_workers=1)))
    views = dict(type='mmkd.SeededViews', dataset=dict(coco, pipeline=LOAD))
    outside = in_scope('mmdet', dict(type='MultiImageMixDataset', dataset=views, pipeline=MIXED))
    with pytest.raises(TypeError, match='outermost'):
        outside[0]


@pytest.mark.parametrize(
    ('cached', 'plain'), [('CachedMosaic', 'Mosaic'), ('CachedMixUp', 'MixUp')]
)
def test_transforms_with_a_memory_are_refused_with_what_to_use(
    coco: dict[str, Any], cached: str, plain: str
) -> None:
    transform = dict(type=cached, img_scale=(32, 32))
    nested = dict(type='RandomApply', transforms=[transform], prob=0.5)
    for step in (transform, nested):
        with pytest.raises(ValueError, match=f'{cached} .*use {plain}, '):
            in_scope(
                'mmdet',
                dict(type='mmkd.SeededViews', dataset=dict(coco, pipeline=[*LOAD, step])),
            )


def test_a_pipeline_that_a_hook_switches_reaches_the_wrapped_data(coco: dict[str, Any]) -> None:
    from mmcv.transforms import Compose

    dataset = in_scope('mmdet', dict(type='mmkd.SeededViews', dataset=coco))
    dataset.pipeline = Compose([*LOAD, dict(type='PackDetInputs')])
    assert 'flip' not in dataset[0, 0]['data_samples'].metainfo
    with pytest.raises(ValueError, match='CachedMosaic'):
        dataset.pipeline = Compose([*LOAD, dict(type='CachedMosaic')])


def test_it_is_the_wrapped_data_set_otherwise(coco: dict[str, Any]) -> None:
    dataset = in_scope('mmdet', dict(type='mmkd.SeededViews', dataset=coco))
    assert dataset.metainfo['classes'] == dataset.dataset.metainfo['classes']
    assert dataset.get_data_info(2)['img_id'] == dataset.dataset.get_data_info(2)['img_id']
    for copied in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert content(copied[1, 1]) == content(dataset[1, 1])


def test_the_epoch_of_an_endless_stream_is_its_number_of_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('mmkd.datasets.seeded_views.get_world_size', lambda: 2)
    monkeypatch.setattr('mmkd.datasets.seeded_views.get_rank', lambda: 1)
    batches = [[0, 1], [2, 3], [4, 5]]  # of process 1: the samples 1, 3, 5 ... 11 of the stream
    whole = [epoch for batch in ViewedBatches(batches, size=5) for _, epoch in batch]
    assert whole == [0, 0, 1, 1, 1, 2]
    later = ViewedBatches(batches[1:], size=5)
    later.skip(2)
    assert [epoch for batch in later for _, epoch in batch] == whole[2:]
