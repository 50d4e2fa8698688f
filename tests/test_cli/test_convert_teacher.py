"""Files in the published formats become checkpoints that the Teacher loads, with the same logits."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from mmengine.registry import DefaultScope
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.utils import register_all_modules
from published import NARROW, NETWORKS, Network, images, resnet, wrn
from torch import Tensor, nn

from mmkd.teachers import FrozenTeacher

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'

register_all_modules(init_default_scope=False)

KEYS = {
    'resnet56': {
        'conv1.weight': (16, 3, 3, 3),
        'layer1.0.conv1.weight': (16, 16, 3, 3),
        'layer2.0.downsample.1.running_var': (32,),
        'layer3.8.bn2.bias': (64,),
        'fc.weight': (100, 64),
    },
    'resnet110': {'layer3.17.conv2.weight': (64, 64, 3, 3)},
    'resnet32x4': {'conv1.weight': (32, 3, 3, 3), 'layer1.0.downsample.0.weight': (64, 32, 1, 1)},
    'resnet50': {
        'layer1.0.shortcut.0.weight': (256, 64, 1, 1),
        'layer4.2.conv3.weight': (2048, 512, 1, 1),
        'linear.bias': (100,),
    },
    'wrn_40_2': {
        'block1.layer.0.convShortcut.weight': (32, 16, 1, 1),
        'block3.layer.5.conv2.weight': (128, 128, 3, 3),
        'bn1.weight': (128,),
    },
    'vgg13': {
        'block0.0.bias': (64,),
        'block4.4.num_batches_tracked': (),
        'classifier.weight': (100, 512),
    },
    'shufflenet_v2': {
        'layer1.0.conv5.weight': (58, 58, 1, 1),
        'layer2.7.bn3.bias': (116,),
        'linear.weight': (100, 1024),
    },
}
"""Some names and shapes of the published files, which tests/published.py has to make."""


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    return import_module('mmkd.cli.convert_teacher')


@pytest.fixture(scope='module')
def resnet8x4() -> dict[str, Tensor]:
    network = Network(NETWORKS['resnet8x4'])
    network(images('resnet8x4', batch=1))
    return network.weights


def teacher_of(config: str, checkpoint: Path) -> Any:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return FrozenTeacher(
            config, checkpoint, student=SimpleNamespace(data_preprocessor=ClsDataPreprocessor())
        ).model


def save_as_mdistiller(weights: dict[str, Tensor], path: Path) -> None:
    """As CRD's code saves a teacher, in the file format of PyTorch before 1.6."""
    content = dict(
        epoch=240,
        model=weights,
        accuracy=torch.tensor(72.34),
        optimizer=dict(state={}, param_groups=[dict(lr=5e-5, params=[0])]),
    )
    torch.save(content, path, _use_new_zipfile_serialization=False)


def test_there_is_a_published_network_for_every_config() -> None:
    plain = {path.stem.removeprefix('plain_') for path in CONFIGS.glob('cifar100/plain_*.py')}
    assert plain | {'mv1'} == NETWORKS.keys()


@pytest.mark.parametrize('name', NETWORKS)
def test_a_published_network(name: str, tool: ModuleType, tmp_path: Path) -> None:
    network = Network(NETWORKS[name])
    expected = network(images(name))
    for key, shape in KEYS.get(name, {}).items():
        assert network.weights[key].shape == shape
    save_as_mdistiller(network.weights, tmp_path / 'ckpt_epoch_240.pth')
    target = tmp_path / 'teachers' / 'teacher.pth'

    assert tool.main([str(tmp_path / 'ckpt_epoch_240.pth'), str(target)]) == 0

    config = torch.load(target, weights_only=True)['meta']['config']
    assert config == f'mmkd::{"imagenet" if name == "mv1" else "cifar100"}/plain_{name}.py'
    teacher = teacher_of(config, target).double()
    torch.testing.assert_close(teacher(images(name), mode='tensor'), expected, rtol=1e-9, atol=1e-9)


def test_the_last_file_of_a_run_of_crds_code_has_its_command_line(
    resnet8x4: dict[str, Tensor], tool: ModuleType, tmp_path: Path
) -> None:
    options = argparse.Namespace(model='resnet8x4', lr_decay_epochs=[150, 180, 210], trial=0)
    content = dict(opt=options, model=resnet8x4, optimizer=dict(state={}))
    torch.save(content, tmp_path / 'resnet8x4_last.pth')

    config = tool.convert(tmp_path / 'resnet8x4_last.pth', tmp_path / 'teacher.pth')

    assert config == 'mmkd::cifar100/plain_resnet8x4.py'


@pytest.mark.parametrize('beside', ['', 'teacher.'], ids=['alone', 'distilled'])
def test_of_a_distiller_of_mdistiller_the_student_is_converted(
    beside: str, resnet8x4: dict[str, Tensor], tool: ModuleType, tmp_path: Path
) -> None:
    state = {f'module.student.{key}': value for key, value in resnet8x4.items()}
    if beside:
        state |= {f'module.{beside}{key}': value + 1 for key, value in resnet8x4.items()}
    torch.save(dict(epoch=240, model=state, best_acc=torch.tensor(72.5)), tmp_path / 'best')

    config = tool.convert(tmp_path / 'best', tmp_path / 'teacher.pth')

    assert config == 'mmkd::cifar100/plain_resnet8x4.py'
    converted = torch.load(tmp_path / 'teacher.pth', weights_only=True)['state_dict']
    assert converted['backbone.conv1.weight'].equal(resnet8x4['conv1.weight'])
    assert len(converted) == len(resnet8x4)


def torchvision_resnet(depth: int, classes: int = 1000) -> nn.Module:
    """With random statistics, so that a batch norm in another one's place shows."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, f'resnet{depth}')(weights=None, num_classes=classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.9, 1.1)
    return network.double().eval()


@pytest.mark.parametrize('depth', [34, 50])
def test_torchvisions_resnets(depth: int, tool: ModuleType, tmp_path: Path) -> None:
    network = torchvision_resnet(depth)
    torch.save(network.state_dict(), tmp_path / 'resnet.pth')

    config = tool.convert(tmp_path / 'resnet.pth', tmp_path / 'teacher.pth')

    pixels = images('mv1', batch=1)
    logits = teacher_of(config, tmp_path / 'teacher.pth').double()(pixels, mode='tensor')
    torch.testing.assert_close(logits, network(pixels), rtol=1e-9, atol=1e-9)
    given = f'mmpretrain::resnet/resnet{depth}_8xb32_in1k.py'
    assert tool.convert(tmp_path / 'resnet.pth', tmp_path / 'teacher.pth', given) == given


def test_a_resnet_of_places365_saved_from_several_gpus(tool: ModuleType, tmp_path: Path) -> None:
    weights = nn.DataParallel(torchvision_resnet(50, classes=365)).state_dict()
    assert 'module.conv1.weight' in weights
    old = {key: value for key, value in weights.items() if 'num_batches_tracked' not in key}
    torch.save(dict(epoch=90, arch='resnet50', state_dict=old), tmp_path / 'places.pth.tar')

    config = tool.convert(tmp_path / 'places.pth.tar', tmp_path / 'teacher.pth')

    assert config == 'mmkd::places365/plain_places365_r50.py'
    assert teacher_of(config, tmp_path / 'teacher.pth').head.fc.out_features == 365


def test_a_schedule_chosen_for_training_is_no_matter(
    resnet8x4: dict[str, Tensor], tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_as_mdistiller(resnet8x4, tmp_path / 'file.pth')
    tool.expected_shapes.cache_clear()
    files = [str(tmp_path / 'file.pth'), str(tmp_path / 'out.pth')]
    assert tool.main([*files, '--config', 'mmkd::cifar100/plain_resnet8x4.py']) == 0


def without_one_weight(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key != 'layer2.0.bn1.bias'}


def with_another_weight(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {'layer4.0.conv1.weight': torch.zeros(1)}


def of_cifar10(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {'fc.weight': torch.zeros(10, 256), 'fc.bias': torch.zeros(10)}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (without_one_weight, r'missing in the file \(1\):\n    backbone.layer2.0.bn1.bias'),
        (
            with_another_weight,
            r'unknown to the config \(1\):\n    backbone.layer4.0.conv1',
        ),
        (of_cifar10, r'head.fc.weight: .*\[10, 256\].*\[100, 256\]'),
    ],
)
@pytest.mark.parametrize('named', [False, True], ids=['guessed', 'named'])
def test_a_file_that_differs_in_few_weights_is_compared_with_its_network(
    named: bool,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
    resnet8x4: dict[str, Tensor],
    tool: ModuleType,
    tmp_path: Path,
) -> None:
    save_as_mdistiller(change(resnet8x4), tmp_path / 'file.pth')
    config = 'mmkd::cifar100/plain_resnet8x4.py'
    with pytest.raises(tool.ConversionError, match=message) as error:
        tool.convert(tmp_path / 'file.pth', tmp_path / 'out.pth', config if named else None)
    assert config in str(error.value)
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('name', ['resnet', 'wrn'])
def test_a_file_of_another_depth_is_not_taken_for_a_known_network(
    name: str, tool: ModuleType, tmp_path: Path
) -> None:
    forward = partial(resnet, 62, NARROW) if name == 'resnet' else partial(wrn, 40, 3)
    network = Network(forward)
    network(images(name, batch=1))
    save_as_mdistiller(network.weights, tmp_path / 'file.pth')
    with pytest.raises(tool.ConversionError, match='--config') as error:
        tool.convert(tmp_path / 'file.pth', tmp_path / 'out.pth')
    assert 'plain_' not in str(error.value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (dict(epoch=240, optimizer={}), "no weights under 'model' or 'state_dict'.*: epoch"),
        ([1, 2], 'holds no weights, but a list'),
        ({}, 'holds no weights, but a dict'),
    ],
)
def test_files_that_hold_no_weights(
    content: Any, message: str, tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / 'file.pth')
    with pytest.raises(tool.ConversionError, match=message):
        tool.convert(tmp_path / 'file.pth', tmp_path / 'out.pth')
    assert tool.main([str(tmp_path / 'file.pth'), str(tmp_path / 'out.pth')]) == 2
    assert capsys.readouterr().err.startswith('Not converted: ')


def test_files_that_cannot_be_read(
    resnet8x4: dict[str, Tensor],
    tool: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(dict(opt=Fraction(1, 20), model=resnet8x4), tmp_path / 'unsafe.pth')
    (tmp_path / 'text.pth').write_text('<html>404</html>')
    for name, said in (
        ('no.pth', 'can not be found'),
        ('', 'can not be found'),
        ('text.pth', 'no checkpoint'),
        ('unsafe.pth', 'set --allow-pickle'),
    ):
        assert tool.main([str(tmp_path / name), str(tmp_path / 'out.pth')]) == 2
        assert said in capsys.readouterr().err
    trusted = [str(tmp_path / 'unsafe.pth'), str(tmp_path / 'out.pth'), '--allow-pickle']
    assert tool.main(trusted) == 0
    save_as_mdistiller(resnet8x4, tmp_path / 'file.pth')
    with pytest.raises(tool.ConversionError, match=r'--config: there is no file .*no\.py'):
        tool.convert(tmp_path / 'file.pth', tmp_path / 'out.pth', str(tmp_path / 'no.py'))
