from __future__ import annotations

import argparse
from typing import Any

import pytest
from mmengine.config import Config

from mmkd.utils import PreflightError
from mmkd.utils.cfg_options import CfgOptions, merge


def read(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


@pytest.fixture
def cfg() -> Config:
    losses = dict(ckd=dict(type='mmkd.CKDLoss', weight=1.0))
    return Config(
        dict(
            train_dataloader=dict(batch_size=2, dataset=dict(pipeline=[dict(scale=(8, 9))])),
            model=dict(teacher=dict(checkpoint='a.pth'), losses=losses, init_cfg=None),
        )
    )


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ("['traffic light','stop sign']", ['traffic light', 'stop sign']),
        ('[traffic light, stop sign]', ['traffic light', 'stop sign']),
        ('traffic light, stop sign', ['traffic light', 'stop sign']),
        ('/data/my set (1)', '/data/my set (1)'),
        ("{'tv': 'tv monitor'}", {'tv': 'tv monitor'}),
        (
            "dict(type='Chain', schedules=[dict(type='Stop', at=8)])",
            dict(type='Chain', schedules=[dict(type='Stop', at=8)]),
        ),
        # As MMEngine reads them.
        ('0.5', 0.5),
        ('None', None),
        ('[(1, 2), (a, true)]', [(1, 2), ('a', True)]),
        ('"[1, 2]"', [1, 2]),
        ('1e-3,2', [0.001, 2]),
        ('epoch_{}.pth', 'epoch_{}.pth'),
        ('a=b', 'a=b'),
        ('', ''),
    ],
)
def test_values_keep_their_spaces(text: str, value: Any) -> None:
    assert read(f'a.b={text}') == {'a.b': value}


def test_settings_add_up() -> None:
    assert read('a=1', 'b=2', 'a=3') == dict(a=3, b=2)


@pytest.mark.parametrize(
    'word', ['foo', '=1', 'a=[1,', 'a={type: Stop}', 'a=dict(type=Stop)', 'a=[dict(type=Stop)]']
)
def test_what_is_no_setting_is_a_usage_error(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        read('b=1', word)
    assert f'--cfg-options {word}: ' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('key', 'meant'),
    [
        ('train_dataloder.batch_size', 'train_dataloader.batch_size'),
        ('teacher.allow_pickle', 'model.teacher.allow_pickle'),
        ('losses.ckd.weight', 'model.losses.ckd.weight'),
        ('batch_size', 'train_dataloader.batch_size'),
        ('randomnes.seed', 'randomness.seed'),
    ],
)
def test_keys_that_nothing_reads_name_the_nearest(cfg: Config, key: str, meant: str) -> None:
    before = cfg.to_dict()
    with pytest.raises(PreflightError, match=f'--cfg-options {key}=1: ') as caught:
        merge(cfg, {key: 1, 'xyz': 2})
    near, none = caught.value.problems
    assert f'did you mean {meant}?' in near
    assert 'no setting is called alike' in none
    assert cfg.to_dict() == before


def test_keys_that_mmengine_reads_are_known(cfg: Config) -> None:
    known = ('randomness.seed', 'data_root', 'resume', 'compile', 'model.anything', 'custom_hooks')
    merge(cfg, dict.fromkeys(known, 1))
    assert cfg.randomness.seed == cfg.model.anything == cfg.compile == 1


@pytest.mark.parametrize(
    'options',
    [
        {'weight': dict(type='Stop', at=8)},
        {'weight.type': 'Stop', 'weight.at': 8},
        {'_delete_': True, 'type': 'mmkd.CKDLoss', 'weight': dict(type='Stop', at=8)},
    ],
)
def test_a_schedule_takes_the_place_of_a_number(cfg: Config, options: dict[str, Any]) -> None:
    merge(cfg, {f'model.losses.ckd.{key}': value for key, value in options.items()})
    assert cfg.model.losses.ckd == dict(type='mmkd.CKDLoss', weight=dict(type='Stop', at=8))


def test_what_is_not_replaced_stays(cfg: Config) -> None:
    merge(
        cfg,
        {
            'model.init_cfg.type': 'Pretrained',
            'model.losses.ckd.weight': 2,
            'train_dataloader.dataset.pipeline.0.scale.1': 10,
            'env_cfg.cudnn_benchmark': True,
        },
    )
    assert cfg.model.init_cfg == dict(type='Pretrained')
    assert cfg.model.losses.ckd == dict(type='mmkd.CKDLoss', weight=2)
    assert cfg.train_dataloader == dict(batch_size=2, dataset=dict(pipeline=[dict(scale=[8, 10])]))
    assert cfg.model.teacher.checkpoint == 'a.pth'
    assert cfg.env_cfg.cudnn_benchmark is True


@pytest.mark.parametrize('place', ['1', 'first'])
def test_a_place_that_a_list_does_not_have_is_named(cfg: Config, place: str) -> None:
    with pytest.raises(
        PreflightError, match=rf'pipeline.{place}.*list of 1, which has no place {place}'
    ):
        merge(cfg, {f'train_dataloader.dataset.pipeline.{place}.prob': 0})
