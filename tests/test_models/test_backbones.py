"""The backbones in the configs of their recipes: published sizes.

Their logits are compared with the published code's in tests/test_tools/test_convert_teacher.py, after a conversion.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.utils import register_all_modules

from mmkd.models import CifarResNet, CifarShuffleNetV2, CifarVGG, WideResNet
from mmkd.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
MILLIONS = {
    path: float(said[1])
    for path in sorted(CONFIGS.glob('*/plain_*.py'))
    if (said := re.match(r'# .* ([\d.]+)M parameters', path.read_text()))
}
"""Of the configs that say a published number."""

register_all_modules(init_default_scope=False)


def build(name: str) -> Any:
    folder = 'imagenet' if name in ('mv1', 'r18') else 'cifar100'
    config = Config.fromfile(CONFIGS / folder / f'plain_{name}.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(config.model)


@pytest.mark.parametrize('path', MILLIONS, ids=lambda path: path.stem)
def test_size_is_the_one_that_the_config_says(path: Path) -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(Config.fromfile(path).model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert abs(parameters / 1e6 - MILLIONS[path]) < 0.01


def started(name: str) -> Any:
    """The network of a recipe with the weights that training starts from."""
    torch.manual_seed(0)
    model = build(name)
    model.init_weights()
    return model


@pytest.mark.parametrize('name', sorted(path.stem.removeprefix('plain_') for path in MILLIONS))
def test_the_class_layer_starts_as_in_the_published_code(name: str) -> None:
    layer = started(name).head.fc
    if name in ('vgg8', 'vgg11', 'vgg13', 'vgg16', 'vgg19', 'mobilenet_v2'):
        assert 0.0095 < layer.weight.std() < 0.0105
        assert not layer.bias.any()
        return
    bound = layer.in_features**-0.5  # PyTorch's own: uniform between -bound and bound
    assert 0.98 * bound < layer.weight.abs().max() <= bound
    assert 0.97 < layer.weight.std() * 3**0.5 / bound < 1.03
    if name.startswith('wrn'):
        assert not layer.bias.any()
    else:
        assert 0.9 * bound < layer.bias.abs().max() <= bound


@pytest.mark.parametrize('name', ['shufflenet_v1', 'shufflenet_v2', 'mv1'])
def test_these_networks_start_as_pytorch_makes_them(name: str) -> None:
    """Uniform with a bound, where a normal distribution has values beyond it."""
    convolutions = [
        module for module in started(name).modules() if isinstance(module, torch.nn.Conv2d)
    ]
    assert len(convolutions) > 20
    for convolution in convolutions:
        weight = convolution.weight
        bound = weight[0].numel() ** -0.5
        assert weight.abs().max() <= bound
        if weight.numel() > 1000:
            assert 0.9 < weight.std() * 3**0.5 / bound < 1.1


def test_another_start_may_be_asked_of_shufflenet_v2() -> None:
    start = dict(type='Constant', layer='Conv2d', val=0.5)
    backbone = CifarShuffleNetV2(init_cfg=start)
    backbone.init_weights()
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert (module.weight == 0.5).all()


@pytest.mark.parametrize('name', ['resnet50', 'resnet20', 'r18'])
def test_no_residual_block_starts_as_the_identity(name: str) -> None:
    norms = [m for m in started(name).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() for norm in norms)


@pytest.mark.parametrize(
    ('backbone', 'options', 'message'),
    [
        (CifarResNet, dict(depth=18), r'CifarResNet\.depth: 18 is none of \[8, 14, 20'),
        (WideResNet, dict(depth=20, width=2), r'WideResNet\.depth: 20 is not 6n\+4'),
        (CifarVGG, dict(depth=15), r'CifarVGG\.depth: 15 is none of \[8, 11, 13'),
    ],
)
def test_depths_that_do_not_exist(backbone: Any, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone(**options)
