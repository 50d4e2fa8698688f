"""A tiny RetinaNet with a wider teacher, and whole runs of them, for tests of everything around the heads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch import nn

from mmkd.distillers import Distiller

TINY_RETINANET = Path(__file__).parent / 'data' / 'tiny_retinanet.py'
CKD = dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.PositivesAndTeacherTopK', k=8))
NUM_CLASSES = 10

_numbers = itertools.count()


def student_model(**overrides: Any) -> ConfigDict:
    """The model of ``tests/data/tiny_retinanet.py``; ``__`` in a keyword stands for a dot."""
    config = Config(dict(model=Config.fromfile(TINY_RETINANET).model))
    config.merge_from_dict(
        {f'model.{key.replace("__", ".")}': value for key, value in overrides.items()}
    )
    return config.model


def teacher_model(**overrides: Any) -> ConfigDict:
    """The same with a backbone of twice the width; neck and head have the student's."""
    wide = dict(backbone__base_channels=16, neck__in_channels=[16, 32, 64, 128])
    return student_model(**(wide | overrides))


def teacher_options(model: Mapping[str, Any], checkpoint: Any = 'random_init') -> dict[str, Any]:
    """``teacher`` of a recipe."""
    return dict(config=dict(model=model, default_scope='mmdet'), checkpoint=checkpoint)


def save(model: nn.Module, path: Path, classes: tuple[str, ...] | None = None) -> Path:
    """Write a checkpoint as MMEngine does."""
    meta = {} if classes is None else dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


def recipe(
    student: Config, losses: Mapping[str, Any], checkpoint: Any = 'random_init', **options: Any
) -> Config:
    """The student's config with its model wrapped in a Distiller."""
    config = Config(student.to_dict())
    model = dict(
        type='mmkd.Distiller',
        student=student.model,
        teacher=teacher_options(teacher_model(), checkpoint),
        losses=losses,
        **options,
    )
    config.custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)
    config.model = ConfigDict(model)
    return config


def train(config: Config, work_dir: Path) -> Runner:
    """Train in this process; returns the runner when it is done."""
    runner = make_runner(config, work_dir)
    runner.train()
    return runner


def make_runner(config: Config, work_dir: Path) -> Runner:
    """A runner of its own name: MMEngine keeps loggers, hubs and visualisers by name."""
    name = f'tiny_run_{next(_numbers)}'
    config = Config(config.to_dict())
    config.merge_from_dict(
        {'work_dir': str(work_dir), 'experiment_name': name, 'visualizer.name': name}
    )
    return Runner.from_cfg(config)


def fresh_hub(**info: Any) -> None:
    """Make a new message hub the current one, as a new run does."""
    hub = MessageHub.get_instance(f'tiny_hub_{next(_numbers)}')
    for key, value in info.items():
        hub.update_info(key, value)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state that later training does not change."""
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    """Whether two states have the same keys and the same bits."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


class TeacherCalls:
    """Counts the forward calls of a distiller's teacher, by module."""

    def __init__(self, model: Distiller) -> None:
        self.backbone = 0
        self.head = 0
        model.teacher.model.backbone.register_forward_hook(self._count_backbone)
        model.teacher.model.bbox_head.register_forward_hook(self._count_head)

    def _count_backbone(self, *_: Any) -> None:
        self.backbone += 1

    def _count_head(self, *_: Any) -> None:
        self.head += 1
