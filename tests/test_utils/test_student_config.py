from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook

from mmkd.hooks import ExportStudentHook
from mmkd.utils import DropDistillWeights, is_distiller, student_config


def recipe() -> Config:
    return Config(
        dict(
            model=dict(
                type='mmkd.Distiller',
                student=dict(type='RetinaNet', backbone=dict(depth=50)),
                teacher=dict(config='teacher.py', checkpoint='teacher.pth'),
            ),
            custom_hooks=[
                dict(type='mmkd.ExportStudentHook'),
                dict(type=ExportStudentHook),
                dict(type='EMAHook'),
                dict(type=EMAHook),
            ],
            custom_imports=dict(
                imports=['mmkd', 'mmkd.hooks', 'other'], allow_failed_imports=False
            ),
            train_cfg=dict(max_epochs=12),
        )
    )


def test_the_student_stands_alone() -> None:
    cfg = recipe()
    before = copy.deepcopy(cfg.to_dict())

    plain = student_config(cfg)

    assert plain.model == dict(type='RetinaNet', backbone=dict(depth=50))
    assert plain.custom_hooks == [dict(type='EMAHook'), dict(type=EMAHook)]
    assert plain.custom_imports == dict(imports=['other'], allow_failed_imports=False)
    assert plain.train_cfg == dict(max_epochs=12)
    assert cfg.to_dict() == before


@pytest.mark.parametrize('imports', ['mmkd', ['mmkd']])
def test_no_imports_are_left_where_there_was_only_this_package(imports: str | list[str]) -> None:
    cfg = recipe()
    cfg.custom_imports = dict(imports=imports)

    assert 'custom_imports' not in student_config(cfg)


def test_a_plain_config_is_copied_unchanged() -> None:
    cfg = Config(dict(model=dict(type='RetinaNet'), custom_hooks=[dict(type='mmkd.MonitorHook')]))

    plain = student_config(cfg)

    assert plain.to_dict() == cfg.to_dict()
    assert plain is not cfg


def test_only_a_pair_is_a_distiller() -> None:
    assert is_distiller(recipe().model)
    assert not is_distiller(dict(type='SoftTeacher', detector={}))
    assert not is_distiller(None)


def test_distillation_weights_leave_a_checkpoint_and_nothing_else_does() -> None:
    checkpoint = {
        'state_dict': {'backbone.w': 1, 'distill.aekt.w': 2, 'distillery.w': 3},
        'ema_state_dict': {'steps': 0, 'module.backbone.w': 1, 'module.distill.aekt.w': 2},
        'meta': {'epoch': 1},
    }

    runner = SimpleNamespace(model=torch.nn.Identity())
    DropDistillWeights().after_load_checkpoint(runner, checkpoint)

    assert checkpoint == {
        'state_dict': {'backbone.w': 1, 'distillery.w': 3},
        'ema_state_dict': {'steps': 0, 'module.backbone.w': 1},
        'meta': {'epoch': 1},
    }
