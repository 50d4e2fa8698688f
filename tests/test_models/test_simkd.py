"""SimKD's student: a real training step, what learns in it and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmpretrain.utils import register_all_modules
from tiny import fresh_hub

import mmkd.models  # noqa: F401  (registers what the configs name)
from mmkd.distillers import Distiller
from mmkd.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
register_all_modules(init_default_scope=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Config:
    """The recipe in small, with a teacher of random weights."""
    fresh_hub()
    config = Config.fromfile(CONFIGS / 'cifar100' / 'simkd_resnet32x4_resnet8x4.py')
    teacher = Config.fromfile(CONFIGS / 'cifar100' / 'plain_resnet32x4.py')
    small = dict(stem_channels=4, base_channels=8)
    teacher.merge_from_dict({'model.backbone': dict(small, depth=14), 'model.head.in_channels': 32})
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(teacher.model)
    torch.save(dict(state_dict=network.state_dict()), tmp_path / 'teacher.pth')
    checkpoint = str(tmp_path / 'teacher.pth')
    config.merge_from_dict(
        {
            'model.student.backbone': small,
            'model.student.head.in_channels': 32,
            'model.student.head.init_cfg.checkpoint': checkpoint,
            'model.teacher': dict(config=teacher, checkpoint=checkpoint),
        }
    )
    projector, pooling = config.model.student.neck
    config.model.student.neck = [dict(projector, in_channels=32, out_channels=32), pooling]
    return config


def make(config: Config) -> Distiller:
    torch.manual_seed(0)
    options = {key: value for key, value in config.model.items() if key != 'type'}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = Distiller(**options, data_preprocessor=config.data_preprocessor)
        model.init_weights()
    return model.train()


def losses_of(model: Distiller) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 3, 32, 32, generator=generator)
    return model.loss(inputs, [DataSample().set_gt_label(label) for label in range(4)])


def test_the_map_learns_and_the_class_layer_stays_the_teachers(recipe: Config) -> None:
    model = make(recipe)
    assert torch.equal(model.head.fc.weight, model.teacher.model.head.fc.weight)
    losses = losses_of(model)
    assert losses['loss'] == 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    first = losses['loss_simkd'].detach()
    for _ in range(5):
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        losses = losses_of(model)
    assert 0 < losses['loss_simkd'] < first
    assert all(parameter.grad.any() for parameter in model.neck.parameters())
    for key, value in model.teacher.model.head.state_dict().items():
        assert torch.equal(model.head.state_dict()[key], value), key


def test_what_is_compared_is_the_projected_map(recipe: Config) -> None:
    model = make(recipe)
    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    samples = [DataSample().set_gt_label(0)] * 4
    loss = model.loss(inputs, samples)['loss_simkd']
    with torch.no_grad():
        (ours,) = model.neck[0](model.backbone(inputs))
        theirs = model.teacher.model.backbone(model.teacher.convert_pixels(inputs, samples))[-1]
    assert ours.shape == theirs.shape
    torch.testing.assert_close(loss.detach(), (ours - theirs).square().mean())


def test_its_weights_are_those_of_a_plain_config(recipe: Config) -> None:
    model = make(recipe)
    student = recipe.model.student
    student.head.init_cfg = None
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        plain = MODELS.build(student)
    plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'init_cfg': None}, 'init_cfg'),
        ({'init_cfg.prefix': 'neck.'}, "under 'neck.'"),
        ({'in_channels': 16}, 'in_channels'),
    ],
)
def test_a_class_layer_that_is_not_there_is_an_error(
    recipe: Config, change: dict[str, Any], message: str
) -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        head = recipe.model.student.head
        config = Config(dict(head=head))
        config.merge_from_dict({f'head.{key}': value for key, value in change.items()})
        with pytest.raises(ValueError, match=message):
            MODELS.build(config.head).init_weights()
