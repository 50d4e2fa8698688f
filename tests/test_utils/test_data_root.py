from __future__ import annotations

import pytest
from mmengine.config import Config

from mmkd.utils import override_data_root


def dataset(**settings: object) -> dict:
    return dict(
        type='CocoDataset', data_root='data/coco/', ann_file='annotations/a.json', **settings
    )


def test_every_path_under_the_old_folder_moves() -> None:
    cfg = Config(
        dict(
            data_root='data/coco/',
            train_dataloader=dict(
                dataset=dict(
                    type='RepeatDataset',
                    dataset=dict(type='ConcatDataset', datasets=[dataset(), dataset()]),
                )
            ),
            val_dataloader=dict(dataset=dataset()),
            val_evaluator=[dict(type='CocoMetric', ann_file='data/coco/annotations/a.json')],
        )
    )

    changed = override_data_root(cfg, '/mnt/coco')

    inner = cfg.train_dataloader.dataset.dataset.datasets
    assert [item.data_root for item in inner] == ['/mnt/coco', '/mnt/coco']
    assert inner[0].ann_file == 'annotations/a.json'
    assert cfg.val_dataloader.dataset.data_root == '/mnt/coco'
    assert cfg.val_evaluator[0].ann_file == '/mnt/coco/annotations/a.json'
    assert cfg.data_root == '/mnt/coco'
    assert changed == [
        'train_dataloader.dataset.dataset.datasets.0.data_root',
        'train_dataloader.dataset.dataset.datasets.1.data_root',
        'val_dataloader.dataset.data_root',
        'val_evaluator.0.ann_file',
    ]


@pytest.mark.parametrize('other', ['data/coco_extra/', 'more/data/coco/', '/data/coco/'])
def test_a_folder_that_only_looks_alike_stays(other: str) -> None:
    cfg = Config(
        dict(
            data_root='data/coco',
            train_dataloader=dict(dataset=dict(data_root=other)),
            val_dataloader=dict(dataset=dict(data_root='data/coco/')),
        )
    )

    assert override_data_root(cfg, '/mnt/coco') == ['val_dataloader.dataset.data_root']
    assert cfg.train_dataloader.dataset.data_root == other


def test_an_override_that_reaches_nothing_is_an_error() -> None:
    cfg = Config(dict(data_root='data/coco', train_dataloader=dict(dataset=dict(data_root='a'))))

    with pytest.raises(ValueError, match="lies in its data_root 'data/coco'"):
        override_data_root(cfg, '/mnt/coco')


def test_a_config_without_the_variable_uses_what_its_datasets_agree_on() -> None:
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(data_root='data/imagenet', split='train')),
            val_dataloader=dict(dataset=dict(data_root='data/imagenet/', split='val')),
        )
    )

    override_data_root(cfg, '/mnt/imagenet')

    assert cfg.train_dataloader.dataset.data_root == '/mnt/imagenet'
    assert cfg.val_dataloader.dataset.data_root == '/mnt/imagenet'
    assert 'data_root' not in cfg


def test_datasets_that_disagree_are_an_error_that_names_them() -> None:
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(data_root='data/a')),
            val_dataloader=dict(dataset=dict(data_root='data/b')),
        )
    )

    with pytest.raises(ValueError, match='data/a, data/b'):
        override_data_root(cfg, '/mnt')
