from __future__ import annotations

import copy

from mmengine.config import Config

from mmkd.utils import DropDistillWeights, is_distiller, student_config


def recipe() -> Config:
    return Config(
        dict(
            model=dict(
                type='mmkd.Distiller',
                student=dict(type='RetinaNet', backbone=dict(depth=50)),
                teacher=dict(config='teacher.py', checkpoint='teacher.pth'),
            ),
            custom_hooks=[dict(type='mmkd.MonitorHook'), dict(type='EMAHook')],
            train_cfg=dict(max_epochs=12),
        )
    )


def test_the_student_stands_alone() -> None:
    cfg = recipe()
    before = copy.deepcopy(cfg.to_dict())

    plain = student_config(cfg)

    assert plain.model == dict(type='RetinaNet', backbone=dict(depth=50))
    assert plain.custom_hooks == [dict(type='EMAHook')]
    assert plain.train_cfg == dict(max_epochs=12)
    assert cfg.to_dict() == before


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

    DropDistillWeights().after_load_checkpoint(runner=None, checkpoint=checkpoint)

    assert checkpoint == {
        'state_dict': {'backbone.w': 1, 'distillery.w': 3},
        'ema_state_dict': {'steps': 0, 'module.backbone.w': 1},
        'meta': {'epoch': 1},
    }
