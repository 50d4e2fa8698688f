from __future__ import annotations

import json
from importlib import import_module

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny import TINY_RETINANET, fresh_hub


@pytest.fixture
def tool():
    return import_module('mmkd.cli.benchmark')


@pytest.fixture(autouse=True)
def no_run_in_progress() -> None:
    """The run of an earlier test in this process is over."""
    fresh_hub()


def test_every_side_of_a_recipe_is_timed_and_compared(tool, tmp_path, capsys) -> None:
    recipe = tmp_path / 'recipe.py'
    recipe.write_text(
        f'_base_ = {str(TINY_RETINANET)!r}\n'
        "model = dict(_delete_=True, type='mmkd.Distiller', student={{_base_.model}},\n"
        f'             teacher=dict(config={str(TINY_RETINANET)!r}, checkpoint="nowhere.pth"),\n'
        "             losses=dict(ckd=dict(type='mmkd.CKDLoss', weight=dict(type='LinearWarmup', end=9)),\n"
        "                         pkd=dict(type='mmkd.PKDLoss', weight=2.0)))\n"
    )
    out = tmp_path / 'speed.json'
    options = ['--size', '64', '--steps', '3', '--warm-up', '1', '--out', str(out)]
    assert tool.main([str(recipe), *options]) == 0

    report = json.loads(out.read_text())
    assert report['size'] == [64]
    assert report['steps'] == 3
    sides, ratios = report['sides'], report['ratios']
    losses = ['with ckd', 'with pkd', 'all losses']
    stored = 'with ckd, stored'
    others = ['plain step', 'teacher', 'teacher to the neck', 'with ckd', stored]
    assert list(sides) == [*others, *losses[1:]]
    assert all(side['cpu_seconds'] > 0 and side['wall_seconds'] > 0 for side in sides.values())
    assert ratios.keys() == {*losses, stored}
    plain = sides['plain step']['cpu_seconds']
    for name, teacher in zip(losses, ('teacher', 'teacher to the neck', 'teacher'), strict=True):
        step = sides[name]['cpu_seconds']
        assert ratios[name]['of_plain_step'] == pytest.approx(step / plain)
        together = plain + sides[teacher]['cpu_seconds']
        assert ratios[name]['of_step_and_teacher'] == pytest.approx(step / together)
    assert ratios[stored] == {'of_plain_step': pytest.approx(sides[stored]['cpu_seconds'] / plain)}
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
    assert [row.split(' | ')[0].strip('| ') for row in rows[1:]] == list(sides)


def test_a_classifier_has_labels(tool, tmp_path) -> None:
    recipe = tmp_path / 'recipe.py'
    classifier = TINY_RETINANET.parent / 'tiny_classifier.py'
    recipe.write_text(
        f'_base_ = {str(classifier)!r}\n'
        "model = dict(_delete_=True, type='mmkd.Distiller', student={{_base_.model}},\n"
        f'             teacher=dict(config={str(classifier)!r}, checkpoint="nowhere.pth"),\n'
        "             losses=dict(kd=dict(type='mmkd.KDLoss')))\n"
    )
    out = tmp_path / 'speed.json'
    options = ['--size', '32', '--batch', '4', '--steps', '1', '--warm-up', '0', '--out', str(out)]
    assert tool.main([str(recipe), *options]) == 0
    assert {'with kd', 'with kd, stored'} == json.loads(out.read_text())['ratios'].keys()


def test_a_store_of_the_batch_gives_the_live_teachers_loss(tool, tmp_path) -> None:
    ckd = dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.PositivesAndTeacherTopK', k=8))
    student = Config.fromfile(TINY_RETINANET).model.to_dict()
    teacher = dict(config=str(TINY_RETINANET), fuse=False)
    args = tool.parse_args(['recipe', '--size', '64'])
    with DefaultScope.overwrite_default_scope('mmdet'):
        live = tool.build_distiller(dict(teacher=teacher), dict(ckd=ckd), student).train()
        batch = tool.made_up_batch(live, args)
        tool.write_store(live, teacher['config'], batch, tmp_path / 'store')
        read = dict(teacher=dict(teacher, store=str(tmp_path / 'store')))
        stored = tool.build_distiller(read, dict(ckd=ckd), student).train()
        values = [model.loss(*batch)['loss_ckd'] for model in (live, stored)]
    assert values[1] > 0
    torch.testing.assert_close(values[1], values[0], rtol=1e-3, atol=0)


def test_a_plain_config_is_timed_with_a_teacher_that_no_file_holds(tool, tmp_path) -> None:
    out = tmp_path / 'speed.json'
    options = ['--size', '64', '--steps', '1', '--warm-up', '0', '--out', str(out)]
    method = ['--teacher', str(TINY_RETINANET), '--losses', 'ckd']
    assert tool.main([str(TINY_RETINANET), *method, *options]) == 0
    assert 'with ckd' in json.loads(out.read_text())['ratios']
