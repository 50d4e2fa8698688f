from __future__ import annotations

import argparse
import time
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd.utils import (
    PreflightError,
    add_common_arguments,
    load_config,
    positive_number,
    report_missing,
)

pytestmark = pytest.mark.usefixtures('clean_environment')

CONFIG = """
default_scope = '{scope}'
data_root = 'data/coco/'
train_dataloader = dict(num_workers=2, dataset=dict(data_root=data_root, ann_file='train.json'))
val_evaluator = dict(ann_file=data_root + 'val.json')
"""


def load(folder: Path, *options: str, scope: str = 'mmdet', text: str = '') -> Config:
    config = folder / 'recipe.py'
    config.write_text(CONFIG.format(scope=scope) + text)
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--work-dir')
    add_common_arguments(parser)
    return load_config(parser.parse_args([str(config), *options]))


def test_options_of_the_command_line_win(tmp_path: Path) -> None:
    cfg = load(
        tmp_path,
        '--launcher',
        'pytorch',
        '--cfg-options',
        'train_dataloader.num_workers=0',
        'train_dataloader.a=1,2',
    )
    assert cfg.launcher == 'pytorch'
    assert cfg.train_dataloader.num_workers == 0
    assert cfg.train_dataloader.a == [1, 2]


def test_the_work_folder_is_given_or_configured_or_named_after_the_config(tmp_path: Path) -> None:
    assert load(tmp_path).work_dir == f'./work_dirs/{tmp_path.name}/recipe'
    assert load(tmp_path, text="work_dir = 'own'").work_dir == 'own'
    assert load(tmp_path, '--work-dir', 'given', text="work_dir = 'own'").work_dir == 'given'


def test_data_root_moves_all_but_what_is_set_by_its_own_key(tmp_path: Path) -> None:
    cfg = load(tmp_path, '--cfg-options', 'data_root=/a', 'train_dataloader.dataset.data_root=/b')
    assert cfg.data_root == '/a'
    assert cfg.val_evaluator.ann_file == '/a/val.json'
    assert cfg.train_dataloader.dataset.data_root == '/b'


def test_the_environment_names_the_data_of_detectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MMDET_DATASETS', '/environment')
    assert load(tmp_path).val_evaluator.ann_file == '/environment/val.json'
    given = load(tmp_path, '--cfg-options', 'data_root=/given')
    assert given.val_evaluator.ann_file == '/given/val.json'
    classifier = load(tmp_path, scope='mmpretrain')
    assert classifier.val_evaluator.ann_file == 'data/coco/val.json'


def test_classifiers_get_the_loaders_that_mmpretrain_gives_them(tmp_path: Path) -> None:
    loader = load(tmp_path, scope='mmpretrain').train_dataloader
    assert loader.collate_fn == dict(type='default_collate')
    assert loader.persistent_workers is True
    assert 'collate_fn' not in load(tmp_path).train_dataloader

    options = ('--cfg-options', 'train_dataloader.num_workers=0')
    assert not load(tmp_path, *options, scope='mmpretrain').train_dataloader.persistent_workers


def test_a_config_that_is_not_there_is_named() -> None:
    args = argparse.Namespace(config='gone.py', local_rank=0)
    with pytest.raises(PreflightError, match=r'there is no file gone\.py'):
        load_config(args)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(a=1)\nb = foo', r"NameError.*'foo'.*own\.py, line 2"),
        ('a = [1', r'SyntaxError'),
        ("_base_ = 'gone.py'", r'.*gone\.py'),
        ("_base_ = 'recipe.py'\ndata_root = dict(type='x')", r'.*cannot inherit.*_delete_=True'),
    ],
)
def test_a_config_that_cannot_be_read_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / 'recipe.py').write_text(CONFIG.format(scope='mmdet'))
    (tmp_path / 'own.py').write_text(text)
    args = argparse.Namespace(config=str(tmp_path / 'own.py'), local_rank=0)
    with pytest.raises(PreflightError, match=r'config: .*own\.py: ' + message):
        load_config(args)


def test_a_checkpoint_in_place_of_a_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK')
    args = argparse.Namespace(config=str(tmp_path / 'epoch_1.pth'), local_rank=0)
    with pytest.raises(PreflightError, match=r'config: .*epoch_1\.pth: .*py.*supported'):
        load_config(args)


def test_what_is_missing_is_left_to_the_first_process_to_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = PreflightError('teacher: gone')

    waited: list[float] = []
    monkeypatch.setattr(time, 'sleep', waited.append)

    monkeypatch.setenv('LOCAL_RANK', '1')
    assert report_missing(error, 'pytorch') == 2
    assert waited, 'its end would end the first one before that has said anything'
    assert 'teacher: gone' in capsys.readouterr().err, 'or what another process alone lacks is lost'
    waited.clear()

    monkeypatch.setenv('LOCAL_RANK', '0')
    assert report_missing(error, 'pytorch') == 2
    assert not waited
    assert 'teacher: gone' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['0', '-1', 'two', ''])
def test_a_number_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match='from 1 on'):
        positive_number(text)
    assert positive_number('2') == 2
