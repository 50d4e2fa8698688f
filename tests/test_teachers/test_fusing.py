from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dense_runs import pair
from mmdet.utils import register_all_modules
from mmengine.registry import DefaultScope
from tiny import CKD, student_model, teacher_model, teacher_options
from torch import Tensor, nn
from zoo import distiller

from mmkd.distillers import Distiller
from mmkd.heads.base import adapter_class
from mmkd.teachers import FrozenTeacher
from mmkd.teachers.fusing import fuse_batch_norms


def trained(model: nn.Module) -> nn.Module:
    """Statistics and affine parameters unlike those of a new normalisation."""
    noise = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in (
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
                (module.weight.data, 0.5),
                (module.bias.data, -0.5),
            ):
                values.copy_(low + torch.rand(values.shape, generator=noise))
    return model.eval()


def convolution(inputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, 4, 3, padding=1)


class Net(nn.Module):
    """Layers by name, and a function of them and the pixels."""

    def __init__(self, run: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.run(self, pixels)


@pytest.mark.parametrize(
    ('run', 'count'),
    [
        (lambda net, x: net.norm(net.first(x)), 1),
        (lambda net, x: net.norm(net.first(x).relu_()), 0),
        (lambda net, x: net.norm(net.first(x).relu()), 0),
        (lambda net, x: net.norm(net.first(x)) + net.norm(net.second(x)), 0),
        (lambda net, x: net.norm(net.first(x)) + net.other(net.first(x + 1)), 0),
        (lambda net, x: net.norm(net.first(x)) + net.first(x + 1), 0),
        (lambda net, x: net.norm(net.first(x)) + net.norm(net.first(x + 1)), 1),
        (lambda net, x: net.other(net.second(x)) + net.norm(net.first(x)), 2),
    ],
    ids=[
        'in a row',
        'changed in place between',
        'changed between',
        'a shared normalisation',
        'a shared convolution',
        'a convolution that is read raw, too',
        'both shared',
        'two',
    ],
)
def test_only_what_is_read_by_its_normalisation_alone_is_folded(run: Any, count: int) -> None:
    layers = dict(norm=nn.BatchNorm2d(4), other=nn.BatchNorm2d(4))
    model = Net(run, first=convolution(), second=convolution(), **layers)
    pixels = torch.randn(1, 3, 32, 32)
    trained(model)
    with torch.no_grad():
        before = model(pixels)
        assert fuse_batch_norms(model, lambda: [model(pixels)]) == count
        torch.testing.assert_close(model(pixels), before, rtol=1e-4, atol=1e-5)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert left == 2 - count


def test_a_sum_of_what_is_before_and_after_the_normalisation_is_left_alone() -> None:
    model = Net(
        lambda net, x: (lambda y: y + net.norm(y))(net.first(x)),
        first=convolution(),
        norm=nn.BatchNorm2d(4),
    )
    trained(model)
    pixels, state = torch.randn(1, 3, 32, 32), copy.deepcopy(model.state_dict())
    assert fuse_batch_norms(model, lambda: [model(pixels)]) == 0
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_convolution_that_is_looked_at_is_left_alone() -> None:
    layers = dict(first=convolution(), norm=nn.BatchNorm2d(4))
    model = trained(Net(lambda net, x: net.norm(net.first(x)), **layers))
    pixels = torch.randn(1, 3, 32, 32)
    assert fuse_batch_norms(model, lambda: [model(pixels)], keep=['first']) == 0
    assert fuse_batch_norms(model, lambda: [model(pixels)], keep=['norm']) == 1


def frozen(model: Any, **options: Any) -> FrozenTeacher:
    teacher = FrozenTeacher(
        **teacher_options(model),
        **options,
        student=SimpleNamespace(data_preprocessor=nn.Identity()),
    )
    with torch.no_grad():
        trained(teacher.model)
    return teacher


def norms(teacher: FrozenTeacher) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in teacher.model.modules())


@pytest.mark.parametrize('name', ['RetinaNet', 'YOLOX', 'RTMDet'])
def test_a_detector_outputs_the_same_to_rounding(name: str) -> None:
    register_all_modules(init_default_scope=False)
    teacher = frozen(pair(name)[1])
    family = adapter_class(teacher.model.bbox_head)
    pixels = torch.randn(2, 3, 256, 256)

    @torch.no_grad()
    def outputs() -> list[Tensor]:
        features = teacher.features(pixels, [])
        return [*features, *family.run(teacher.model.bbox_head, features).maps]

    before, count = outputs(), norms(teacher)
    teacher.tap([])
    assert norms(teacher) <= (0 if name != 'RTMDet' else count // 4)  # it shares convolutions
    for ours, theirs in zip(before, outputs(), strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()
    assert all(not parameter.requires_grad for parameter in teacher.model.parameters())


def test_boxes_that_read_what_is_before_a_normalisation_stay_as_they_are() -> None:
    model = teacher_model(bbox_head__norm_cfg=dict(type='BN'))
    teacher = frozen(model)
    head = teacher.model.bbox_head
    tower = head.reg_convs[0]
    tower.forward = lambda x: (lambda raw: raw + tower.bn(raw))(tower.conv(x))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = head(teacher.features(pixels, []))[1]
        teacher.tap([])
        for ours, theirs in zip(before, head(teacher.features(pixels, []))[1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_number_type_stays(dtype: str) -> None:
    teacher = frozen(teacher_model(), dtype=dtype)
    pixels = torch.randn(2, 3, 64, 64)
    before = teacher.features(pixels, [])
    teacher.tap([])
    assert norms(teacher) == 0
    assert teacher.model.backbone.conv1.weight.dtype == getattr(torch, dtype)
    tolerance = 1e-4 if dtype == 'float32' else 0.2
    for ours, theirs in zip(before, teacher.features(pixels, []), strict=True):
        assert (ours - theirs).norm() < tolerance * ours.norm()


def test_it_can_be_switched_off_and_spares_what_a_loss_looks_at() -> None:
    off = frozen(teacher_model(), fuse=False)
    count = norms(off)
    off.tap([])
    assert norms(off) == count > 0
    watched = frozen(teacher_model())
    watched.tap(['backbone.conv1', 'backbone.layer1'])
    assert norms(watched) == 1


def test_only_frozen_teachers_are_folded() -> None:
    model = distiller(student_model(), teacher_model(), dict(ckd=CKD))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.teacher.model.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.student.modules())
    with DefaultScope.overwrite_default_scope('mmdet'):
        averaged = Distiller(student_model(), dict(type='mmkd.AveragedTeacher'), dict(ckd=CKD))
    assert any(isinstance(module, nn.BatchNorm2d) for module in averaged.teacher.model.modules())
