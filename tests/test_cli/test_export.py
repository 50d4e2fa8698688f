"""The command; what it writes is in tests/test_utils/test_export.py."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
from tiny import teacher_model
from zoo import mmdet_scope

from mmkd.distillers import Distiller


@pytest.fixture
def tool():
    return import_module('mmkd.cli.export')


def test_a_plain_model_is_exported_beside_its_checkpoint(tool, trained, capsys) -> None:
    folder = trained.work_dir / 'exported'
    assert tool.main([str(trained.config), str(trained.checkpoint)]) == 0

    lines = dict(line.split(': ') for line in capsys.readouterr().out.splitlines())
    assert Path(lines['config']) == folder / 'data_tiny_retinanet_student_epoch_1.py'
    content = torch.load(lines['checkpoint'], weights_only=True)
    expected = torch.load(trained.checkpoint, weights_only=False)['state_dict']
    assert content['state_dict'].keys() == expected.keys()
    assert all(torch.equal(content['state_dict'][key], expected[key]) for key in expected)


def test_half_precision_metrics_and_no_checkpoint_to_start_from(tool, trained, tmp_path) -> None:
    metrics = tmp_path / 'metrics.json'
    metrics.write_text('{"coco/bbox_mAP": 0.25, "time": 0.1}')
    arguments = [str(trained.config), str(trained.checkpoint), '--out-dir', str(tmp_path / 'out')]
    arguments += ['--half', '--metrics', str(metrics), '--cfg-options']
    start = ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=x.pth']
    assert tool.main(arguments + start) == 0

    (path,) = (tmp_path / 'out').glob('*.pth')
    content = torch.load(path, weights_only=True)
    expected = torch.load(trained.checkpoint, weights_only=False)['state_dict']
    for key, value in expected.items():
        exact = value.half() if value.is_floating_point() else value
        assert content['state_dict'][key].dtype == exact.dtype
        assert torch.equal(content['state_dict'][key], exact)
    assert content['meta']['metrics'] == {'coco/bbox_mAP': 0.25}
    assert 'x.pth' not in content['meta']['cfg']


def test_weights_that_only_the_losses_had_are_dropped(tool, tiny_config, tmp_path, capsys) -> None:
    recipe = tmp_path / 'recipe.py'
    recipe.write_text(
        f'_base_ = {str(Path(tiny_config.filename).resolve())!r}\n'
        "model = dict(_delete_=True, type='mmkd.Distiller', student={{_base_.model}},\n"
        "             teacher=dict(config='nowhere.py', checkpoint='nowhere.pth'),\n"
        "             losses=dict(aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill')))\n"
    )
    with mmdet_scope():
        model = Distiller(
            student=tiny_config.model,
            teacher=dict(
                config=dict(model=teacher_model(), default_scope='mmdet'), checkpoint='random_init'
            ),
            losses=dict(aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill')),
        )
    torch.nn.init.ones_(model.distill['aekt'].serial_layer.offset)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'last.pth')
    arguments = [str(recipe), str(tmp_path / 'last.pth'), '--out-dir', str(tmp_path / 'out')]
    assert tool.main([*arguments, '--name', 'mine']) == 0

    (path,) = (tmp_path / 'out').glob('mine-*.pth')
    weights = torch.load(path, weights_only=True)['state_dict']
    expected = {k: v for k, v in model.state_dict().items() if not k.startswith('distill.')}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_mistakes_are_one_message(tool, trained, tmp_path, capsys) -> None:
    assert tool.main([str(trained.config), str(tmp_path / 'nowhere.pth')]) == 2
    assert 'nowhere.pth can not be found' in capsys.readouterr().err
    assert tool.main([str(tmp_path / 'nowhere.py'), str(trained.checkpoint)]) == 2
    assert 'nowhere.py' in capsys.readouterr().err
