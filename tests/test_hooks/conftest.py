"""Short runs of the tiny RetinaNet that the tests of the hooks compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from tiny import (
    CKD,
    TINY_RETINANET,
    make_runner,
    recipe,
    save,
    teacher_model,
    teacher_options,
    train,
    weights,
)
from torch import Tensor

from mmkd.utils import override_data_root


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)


@dataclass
class Run:
    """What is left of a run."""

    runner: Runner
    weights: dict[str, Tensor]
    work_dir: Path

    @property
    def log(self) -> str:
        (path,) = self.work_dir.glob('*/*.log')
        return path.read_text()

    def hook(self, name: str) -> Any:
        return next(hook for hook in self.runner.hooks if type(hook).__name__ == name)


OTHER_PIXELS = dict(
    data_preprocessor__mean=[100.0, 110.0, 120.0],
    data_preprocessor__std=[50.0, 55.0, 60.0],
    data_preprocessor__bgr_to_rgb=False,
)


def plain_config(tiny_coco: Path, **settings: Any) -> Config:
    config = Config.fromfile(TINY_RETINANET)
    override_data_root(config, str(tiny_coco))
    config.merge_from_dict({'default_hooks.checkpoint.interval': -1, **settings})
    return config


@pytest.fixture(scope='session')
def trained_teacher(
    tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Path]:
    """Config and checkpoint of a model of other pixels than the student's, which finds something in the four images."""
    config = plain_config(
        tiny_coco,
        **{
            'train_cfg': dict(max_epochs=16, val_interval=99),
            'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=3e-3),
            'param_scheduler': None,
            'train_dataloader.dataset.ann_file': str(
                tiny_coco / 'annotations/instances_val2017.json'
            ),
            'train_dataloader.dataset.data_prefix.img': f'{tiny_coco}/val2017/',
        },
    )
    config.model = teacher_model(**OTHER_PIXELS)
    folder = tmp_path_factory.mktemp('teacher')
    return config, save(train(config, folder).model, folder / 'teacher.pth')


@pytest.fixture(scope='session')
def tiny_distillation(tiny_coco: Path, trained_teacher: tuple[Config, Path]) -> Config:
    """CKD and PKD, two epochs of four iterations with random flips, each validated."""
    plain = plain_config(tiny_coco, **{'train_cfg.max_epochs': 2})
    losses = dict(ckd=CKD | dict(weight=2.0), pkd=dict(type='mmkd.PKDLoss', weight=0.5))
    config = recipe(plain, losses)
    config.model.teacher = teacher_options(trained_teacher[0].model, str(trained_teacher[1]))
    return config


@pytest.fixture(scope='session')
def run_with(
    tiny_distillation: Config, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """Train the recipe with these hooks; keywords are settings of the config, ``__`` for a dot."""

    def run(*hooks: dict[str, Any], **settings: Any) -> Run:
        config = Config(tiny_distillation.to_dict())
        config.merge_from_dict({key.replace('__', '.'): value for key, value in settings.items()})
        config.custom_hooks = list(hooks)
        work_dir = tmp_path_factory.mktemp('run')
        runner = make_runner(config, work_dir)
        runner.train()
        return Run(runner, weights(runner.model), work_dir)

    return run


@pytest.fixture(scope='session')
def without_hooks(run_with: Callable[..., Run]) -> Run:
    """The run that the hooks must not change."""
    return run_with()
