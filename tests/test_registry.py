"""Building from a recipe: the right object, or an error that names the mistake and the fix."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch import nn

from mmkd.losses import CKDLoss, LinearWarmup, PKDLoss, TeacherTopK
from mmkd.registry import LOSSES, MODELS, SAMPLERS, SCHEDULES, build

WHERE = 'model.losses.ckd'


@pytest.mark.parametrize('kind', ['mmkd.TeacherTopK', 'TeacherTopK', TeacherTopK])
def test_a_type_is_given_with_prefix_without_or_as_the_class(kind: object) -> None:
    assert build(SAMPLERS, dict(type=kind, k=7), WHERE) == TeacherTopK(k=7)


def test_the_config_is_not_changed() -> None:
    config = dict(type='mmkd.TeacherTopK', k=7)
    build(SAMPLERS, config, WHERE)
    assert config == dict(type='mmkd.TeacherTopK', k=7)


@pytest.mark.parametrize(
    ('written', 'meant'),
    [('mmkd.CKDLos', 'CKDLoss'), ('ckd', 'CKDLoss'), ('PkdLoss', 'PKDLoss')],
)
def test_an_unknown_loss_suggests_the_nearest(written: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf'{WHERE}: no loss .*{written}.*did you mean.*{meant}'):
        build(LOSSES, dict(type=written), WHERE)


def test_a_name_that_resembles_nothing_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r'registered are: .*CKDLoss.*PKDLoss'):
        build(LOSSES, dict(type='Zzzzzz'), WHERE)


@pytest.mark.parametrize(
    'kind', ['elsewhere.Loss', 'mmdet.NoSuchLoss', 'torch.nn.NoSuchLoss', 'mmkd.registry.build.x']
)
def test_an_unknown_class_of_another_package_is_named(kind: str) -> None:
    with pytest.raises(ValueError, match=f'{WHERE}: no loss is registered as {kind!r}'):
        build(LOSSES, dict(type=kind), WHERE)


def test_an_unknown_option_lists_the_options() -> None:
    with pytest.raises(TypeError, match=r"ckd: CKDLoss: .*'tau'; its options are: .*temperature"):
        build(LOSSES, dict(type='CKDLoss', tau=2.0), WHERE)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(TypeError, match=r"Stop: missing a required argument: 'at'"):
        build(SCHEDULES, dict(type='Stop'), WHERE)


def test_a_mistake_within_a_loss_says_where() -> None:
    with pytest.raises(ValueError, match=rf'^{WHERE}\.samples: no sampler .*TeacherTopK'):
        build(LOSSES, dict(type='CKDLoss', samples=dict(type='TeacherTop')), WHERE)
    with pytest.raises(ValueError, match=rf'^{WHERE}\.samples\.k: 0 '):
        build(LOSSES, dict(type='CKDLoss', samples=dict(type='TeacherTopK', k=0)), WHERE)


@pytest.mark.parametrize('config', ['CKDLoss', dict(weight=1.0), 3, None])
def test_what_is_no_config_is_an_error_that_shows_it(config: object) -> None:
    with pytest.raises(TypeError, match=rf'{WHERE}: expected dict\(type=.*loss, got '):
        build(LOSSES, config, WHERE)  # type: ignore[arg-type]


def test_a_type_that_is_no_name_is_an_error_that_shows_it() -> None:
    with pytest.raises(TypeError, match=rf'{WHERE}\.type: expected the name of a loss, got None'):
        build(LOSSES, dict(type=None), WHERE)


def test_what_a_distiller_builds_is_kept_by_kind() -> None:
    assert isinstance(build(LOSSES, dict(type='CKDLoss'), WHERE), CKDLoss)
    assert isinstance(build(LOSSES, dict(type='PKDLoss'), WHERE), nn.Module)
    assert isinstance(build(SCHEDULES, dict(type='LinearWarmup', end=3), WHERE), LinearWarmup)
    assert PKDLoss.__name__ not in SAMPLERS.module_dict
    assert LinearWarmup.__name__ not in LOSSES.module_dict


def test_importing_mmkd_is_enough_for_a_runner_and_loads_no_detector() -> None:
    """A recipe's custom_imports name only `mmkd`; commands that build nothing stay quick."""
    code = (
        'import sys, mmkd\n'
        'from mmengine.registry import MODELS\n'
        "assert 'mmdet' not in sys.modules and 'mmkd.distillers' not in sys.modules\n"
        "assert MODELS.get('mmkd.Distiller').__module__ == 'mmkd.distillers.distiller'\n"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_the_distiller_is_found_by_its_scope() -> None:
    assert MODELS.get('mmkd.Distiller').__name__ == 'Distiller'
