from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd.utils.run_name import run_name

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def recipe(*losses: str) -> Config:
    return Config(dict(model=dict(student={}, teacher={}, losses={name: {} for name in losses})))


@pytest.mark.parametrize(
    ('path', 'losses', 'name'),
    [
        ('configs/ckd/fcos_r101_r50.py', ['ckd'], 'ckd/fcos_r101_r50'),
        ('configs/ckd_paper/fcos_r18/dkd.py', ['dkd'], 'fcos_r18/dkd'),
        ('shapes/fcos_ckd_aekt.py', ['ckd', 'aekt'], 'shapes/fcos_ckd_aekt'),
        ('configs/ckd/fcos_r101_r50.py', ['ckd', 'kd'], 'ckd/fcos_r101_r50_kd'),
        ('mine/recipe.py', ['ckd'], 'mine/recipe_ckd'),
        ('mine/../yours/recipe.py', [], 'yours/recipe'),
        ('work_dirs/ckd/fcos/fcos.py', ['ckd'], 'fcos_ckd'),
    ],
)
def test_the_method_is_in_the_name(path: str, losses: list[str], name: str) -> None:
    assert run_name(recipe(*losses), path) == name


def test_a_plain_config_has_no_losses_to_name() -> None:
    assert run_name(Config(dict(model=dict(type='Net'))), 'plain/net.py') == 'plain/net'


def test_no_two_configs_of_the_repository_share_a_name() -> None:
    paths = [p for p in CONFIGS.rglob('*.py') if p.relative_to(CONFIGS).parts[0] != '_base_']
    names = Counter(run_name(Config(), path) for path in paths)
    assert len(names) == len(paths) > 50
