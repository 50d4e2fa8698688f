from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmkd.utils.same_recipe import differences

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
RECIPE = dict(
    type='mmkd.Distiller',
    student=dict(type='Net', width=8, init_cfg=dict(type='Pretrained', checkpoint='a.pth')),
    teacher=dict(config='here/net.py', checkpoint='here/a-1234.pth'),
    losses=dict(ckd=dict(type='mmkd.CKDLoss', weight=1.0)),
)


def compare(**settings: Any) -> tuple[list[str], list[str]]:
    """The recipe, and the same with these settings; ``__`` in a keyword stands for a dot."""
    cfg = Config(dict(model=copy.deepcopy(RECIPE)))
    text = cfg.pretty_text
    cfg.merge_from_dict({f'model.{key.replace("__", ".")}': v for key, v in settings.items()})
    return differences(cfg, dict(cfg=text))


@pytest.mark.parametrize(
    'recipe', ['ckd/dino_swinl_r50', 'shapes_cls/digits_ckd', 'shapes/retinanet_student']
)
def test_a_recipe_is_equal_to_its_text(recipe: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'{recipe}.py')
    cfg = Config(dict(model=cfg.model))
    assert differences(cfg, dict(cfg=cfg.pretty_text)) == ([], [])


def test_values_that_are_no_literals_are_equal_to_their_text() -> None:
    model = dict(
        type=Config, low=-float('inf'), step=-1e-5, **{'a-b': [dict(type=int), ()], 'none': None}
    )
    cfg = Config(dict(model=model))
    assert differences(cfg, dict(cfg=cfg.pretty_text)) == ([], [])


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (dict(losses__ckd__type='mmkd.KDLoss'), 'model.losses.ckd.type'),
        (dict(losses__kd=dict(type='mmkd.KDLoss')), 'model.losses.kd.type was None'),
        (dict(student__type='OtherNet'), 'model.student.type'),
        (dict(teacher__config='here/wide.py'), "model.teacher.config was 'net.py', is 'wide.py'"),
        (dict(teacher__checkpoint='here/b.pth'), 'model.teacher.checkpoint'),
        (
            dict(teachers__big__checkpoint='here/c.pth'),
            "model.teachers.big.checkpoint was None, is 'c",
        ),
    ],
)
def test_other_losses_students_and_teachers_make_another_recipe(
    settings: dict[str, Any], said: str
) -> None:
    (essential,), _ = compare(**settings)
    assert said in essential


def test_other_options_do_not_but_are_said() -> None:
    essential, others = compare(losses__ckd__weight=2.0, student__width=9, task_weight=0.1)
    assert essential == []
    assert others == [
        'model.losses.ckd.weight was 1.0, is 2.0',
        'model.student.width was 8, is 9',
        'model.task_weight was None, is 0.1',
    ]


def test_files_may_move_and_initial_weights_do_not_count() -> None:
    moved = dict(teacher__config='mmdet::net/net.py', teacher__checkpoint='https://host/a-1234.pth')
    assert compare(**moved, student__init_cfg=None) == ([], [])


def test_a_plain_model_is_no_distillation() -> None:
    cfg = Config(dict(model=RECIPE['student']))
    essential, _ = differences(cfg, dict(cfg=Config(dict(model=RECIPE)).pretty_text))
    assert essential == ['model was a distillation, is a plain model']


@pytest.mark.parametrize('text', [None, '', 'optimizer = 1', 'model = dict('])
def test_a_checkpoint_without_a_recipe_is_an_error(text: str | None) -> None:
    with pytest.raises(ValueError, match='does not hold the config'):
        differences(Config(dict(model=RECIPE)), dict(cfg=text))


def test_a_recipe_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / 'trace'
    text = f"model = dict(type=open({str(trace)!r}, 'w'))"
    essential, _ = differences(Config(dict(model=dict(type='Net'))), dict(cfg=text))
    assert 'model.type' in essential[0]
    assert not trace.exists()
