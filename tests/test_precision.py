"""Number types, gradient scaling, compiled parts and channels-last memory, on a small RetinaNet and Faster R-CNN."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zoo
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from tiny import (
    NUM_CLASSES,
    fresh_hub,
    same,
    student_model,
    teacher_model,
    teacher_options,
    weights,
)
from torch import Tensor, nn

from mmkd.distillers import Distiller
from mmkd.teachers import FrozenTeacher
from mmkd.utils import PreflightError

LOSSES = dict(
    ckd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.TeacherTopK', k=16)),
    qfl=dict(type='mmkd.QFLKDLoss'),
    pkd=dict(type='mmkd.PKDLoss'),
)
TOLERANCES = {None: 0.0, 'float32': 0.0, 'float16': 0.005, 'bfloat16': 0.01}
"""Largest relative change of a distillation loss that docs/precision.md states."""


@pytest.fixture(autouse=True)
def no_run_in_progress() -> None:
    fresh_hub()


@pytest.fixture(scope='module')
def data() -> dict[str, Any]:
    return zoo.batch(size=96, num_classes=NUM_CLASSES)


def retinanet(dtype: str | None = None, **options: Any) -> Distiller:
    torch.manual_seed(0)
    with zoo.mmdet_scope():
        model = Distiller(
            student=student_model(),
            teacher=teacher_options(teacher_model()) | dict(dtype=dtype),
            losses=LOSSES,
            **options,
        )
        model.init_weights()
    for network in (model.student, model.teacher.model):  # logits that differ, as trained ones do
        network.bbox_head.retina_cls.weight.data.mul_(50)
    return model.train()


def losses_of(
    model: Distiller, data: dict[str, Any], context: AbstractContextManager[Any] | None = None
) -> dict[str, Tensor]:
    """Losses of one step, after the backward pass of their sum."""
    model.zero_grad()
    with zoo.mmdet_scope(), context or nullcontext():
        losses = model(**copy.deepcopy(data), mode='loss')
    total, values = model.parse_losses(losses)
    total.backward()
    return {name: value.detach() for name, value in values.items()}


@pytest.fixture(scope='module')
def reference(data: dict[str, Any]) -> dict[str, Tensor]:
    """All in float32."""
    fresh_hub()
    return losses_of(retinanet(), data)


@pytest.mark.parametrize('student', [None, 'float16', 'bfloat16'])
@pytest.mark.parametrize('teacher', [None, 'float32', 'float16', 'bfloat16'])
def test_losses_stay_within_tolerances(
    student: str | None, teacher: str | None, data: dict[str, Any], reference: dict[str, Tensor]
) -> None:
    model = retinanet(teacher)
    context = torch.autocast('cpu', dtype=getattr(torch, student)) if student else None
    losses = losses_of(model, data, context)

    loosest = max(TOLERANCES[student], TOLERANCES[teacher])
    for name, value in losses.items():
        allowed = TOLERANCES[student] if name in ('loss_cls', 'loss_bbox') else loosest
        assert abs(value - reference[name]) <= allowed * reference[name], name
    assert all(losses[f'loss_{name}'].dtype == torch.float32 for name in LOSSES)
    gradient = zoo.gradient(model)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_the_teachers_type_is_its_own(data: dict[str, Any]) -> None:
    model = retinanet('bfloat16')
    teacher = model.teacher.model
    seen: dict[str, torch.dtype] = {}
    for name in ('backbone', 'neck', 'bbox_head.cls_convs.0.conv'):
        teacher.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: _first(output).dtype})
        )
    losses_of(model, data)

    kinds = {nn.Conv2d: torch.bfloat16, nn.BatchNorm2d: torch.float32}
    for module in teacher.modules():
        if type(module) in kinds:
            assert module.weight.dtype == kinds[type(module)]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert seen == {
        'backbone': torch.bfloat16,
        'neck': torch.float32,
        'bbox_head.cls_convs.0.conv': torch.bfloat16,
    }


def test_rois_of_a_bfloat16_teacher_keep_their_pixels() -> None:
    pair = zoo.pair('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    found = []
    for dtype in (None, 'bfloat16'):
        torch.manual_seed(0)
        with zoo.mmdet_scope():
            model = Distiller(
                student=pair[0],
                teacher=teacher_options(pair[1]) | dict(dtype=dtype),
                losses=dict(ckd=dict(type='mmkd.CKDLoss')),
            )
        rois: list[Tensor] = []
        extractor = model.teacher.model.roi_head.bbox_roi_extractor
        extractor.register_forward_pre_hook(lambda _, args, to=rois: to.append(args[0][0].dtype))
        torch.manual_seed(0)
        value = losses_of(model.train(), zoo.batch(size=96))['loss_ckd']
        assert rois == [torch.float32]
        found.append(value)
    torch.testing.assert_close(found[1], found[0], rtol=TOLERANCES['bfloat16'], atol=0)


@pytest.mark.parametrize(
    ('teacher', 'dtype', 'autocast', 'kept'),
    [
        ('centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco', 'bfloat16', None, 'neck'),
        ('centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco', None, 'bfloat16', 'neck'),
        ('reppoints/reppoints-moment_r50_fpn_1x_coco', 'bfloat16', None, 'bbox_head'),
        ('yolof/yolof_r50-c5_8xb8-1x_coco', 'float16', None, 'bbox_head'),
    ],
)
def test_a_teachers_modules_that_refuse_a_type_run_in_float32(
    teacher: str, dtype: str | None, autocast: str | None, kept: str
) -> None:
    """MMCV's operators know no bfloat16, YOLOF's head overflows float16; the rest computes in the type."""
    _, config = zoo.pair(f'mmdet::{teacher}.py')
    student = config.copy()
    if (
        'centernet' in teacher
    ):  # whose deformable convolutions the student's autocast would meet too
        student, _ = zoo.pair('mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py')
    features = [dict(pkd=dict(type='mmkd.PKDLoss'))] if kept == 'neck' else []
    for losses in [dict(ckd=zoo.CKD), *features]:
        values = []
        for kind, context in [
            (None, nullcontext()),
            (dtype, torch.autocast('cpu', getattr(torch, autocast or 'bfloat16'), bool(autocast))),
        ]:
            torch.manual_seed(0)
            with zoo.mmdet_scope():
                model = Distiller(
                    student=student,
                    teacher=teacher_options(config) | dict(dtype=kind),
                    losses=losses,
                )
                model.init_weights()
            seen: list[torch.dtype] = []
            model.teacher.model.backbone.register_forward_hook(
                lambda module, args, outputs, seen=seen: seen.append(outputs[-1].dtype)
            )
            name = f'loss_{next(iter(losses))}'
            values.append(losses_of(model.train(), zoo.batch(size=128), context)[name])
        assert seen == [getattr(torch, dtype or autocast or '')]
        torch.testing.assert_close(values[1], values[0], rtol=0.03, atol=0)


def test_a_copy_keeps_its_own_modules_in_float32() -> None:
    _, config = zoo.pair('mmdet::centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py')
    student = SimpleNamespace(data_preprocessor=nn.Identity())
    teacher = FrozenTeacher(**teacher_options(config), dtype='bfloat16', student=student)
    twin = copy.deepcopy(teacher)
    inputs = torch.randn(1, 3, 64, 64)
    (expected,) = teacher.features(inputs, [])
    for parameter in teacher.model.parameters():
        parameter.data = torch.zeros_like(parameter)
    assert torch.equal(twin.features(inputs, [])[0], expected)
    assert not torch.equal(teacher.features(inputs, [])[0], expected)


def test_a_two_stage_teacher_under_a_bfloat16_students_autocast() -> None:
    """Its RoI extractor gets the maps and the boxes in float32."""
    student, _ = zoo.pair('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    _, teacher = zoo.pair('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    model = zoo.distiller(student, teacher)
    assert (
        losses_of(model, zoo.batch(size=96), torch.autocast('cpu', torch.bfloat16))['loss_ckd'] > 0
    )


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_features_of_a_transformer_in_half_precision(dtype: str) -> None:
    """The neck is looked at, before training, as the teacher computes."""
    swin = dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
    )
    teacher = teacher_model(backbone=swin, neck__in_channels=[8, 16, 32, 64])
    with zoo.mmdet_scope():
        model = Distiller(
            student=student_model(),
            teacher=teacher_options(teacher) | dict(dtype=dtype),
            losses=dict(pkd=dict(type='mmkd.PKDLoss')),
        )
    assert losses_of(model, zoo.batch(size=64, num_classes=NUM_CLASSES))['loss_pkd'] > 0


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"teacher\.dtype: 'int8'"):
        retinanet('int8')


# ---- Overflow


class CpuAmpOptimWrapper(AmpOptimWrapper):
    """AmpOptimWrapper with PyTorch's scaler for the CPU: MMEngine's constructor wants a GPU."""

    def __init__(self, optimizer: torch.optim.Optimizer, init_scale: float) -> None:
        OptimWrapper.__init__(self, optimizer)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale, backoff_factor=2.0**-8)

    def optim_context(self, model: nn.Module) -> AbstractContextManager[None]:
        return torch.autocast('cpu', dtype=torch.float16)


def raw(data: dict[str, Any]) -> dict[str, Any]:
    """What a data loader gives."""
    pixels = (data['inputs'] * 40 + 128).clamp(0, 255).byte()
    return dict(inputs=list(pixels), data_samples=copy.deepcopy(data['data_samples']))


def step(model: Distiller, wrapper: OptimWrapper, data: dict[str, Any]) -> None:
    with zoo.mmdet_scope():
        model.train_step(raw(data), wrapper)


def test_an_overflow_of_gradients_is_skipped_by_the_scaler(data: dict[str, Any]) -> None:
    model = retinanet()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    wrapper = CpuAmpOptimWrapper(optimizer, init_scale=2.0**30)
    parameters = {name: value.detach().clone() for name, value in model.named_parameters()}
    skipped = 0
    for _ in range(4):
        step(model, wrapper, data)
        if not same(dict(model.named_parameters()), parameters):
            break
        skipped += 1
    assert 1 <= skipped <= 3
    assert wrapper.loss_scaler.get_scale() == 2.0 ** (30 - 8 * skipped)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_loss_that_overflows_is_left_to_the_scaler(data: dict[str, Any]) -> None:
    model = retinanet()
    with torch.no_grad():
        model.student.bbox_head.retina_cls.weight.mul_(1e9)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    wrapper = CpuAmpOptimWrapper(optimizer, init_scale=2.0)
    before = weights(model)
    step(model, wrapper, data)
    assert wrapper.loss_scaler.get_scale() < 2
    after = weights(model)
    parameters = dict(model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in parameters)


# ---- Compiled parts


def test_compiled_parts_give_the_same_and_are_no_part_of_copies(
    data: dict[str, Any], reference: dict[str, Tensor]
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = retinanet(compile=dict(backend=backend))
    plain = retinanet()
    assert list(model.state_dict()) == list(plain.state_dict())
    losses = losses_of(model, data)
    first = len(graphs)
    assert first >= 4, 'backbone and neck of student and teacher'
    for name, value in losses.items():
        torch.testing.assert_close(value, reference[name], rtol=1e-5, atol=0)
    losses_of(plain, data)
    torch.testing.assert_close(zoo.gradient(model), zoo.gradient(plain), rtol=1e-4, atol=1e-6)
    losses_of(model, data)
    assert len(graphs) == first, 'nothing is compiled again'

    twin = copy.deepcopy(model)  # as EMA makes it
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin.eval().extract_feat(data['inputs'])[0].any()
    assert model.eval().extract_feat(data['inputs'])[0].any()


# ---- Channels last


def test_channels_last_changes_the_memory_and_not_the_numbers(
    data: dict[str, Any], reference: dict[str, Tensor]
) -> None:
    model = retinanet(channels_last=True)
    assert same(weights(model), weights(retinanet()))
    for name, value in losses_of(model, data).items():
        torch.testing.assert_close(value, reference[name], rtol=1e-4, atol=0)
    inputs = data['inputs']
    for network in (model.student, model.teacher.model):
        assert network.extract_feat(inputs)[0].is_contiguous(memory_format=torch.channels_last)
        assert not network.extract_feat(inputs)[0].is_contiguous()


# ---- The command line


@pytest.fixture
def options() -> Callable[..., None]:
    """Apply options of the command line to a config."""
    tool = import_module('mmkd.cli.train')
    return lambda cfg, *arguments: tool.apply_training_options(
        cfg, tool.parse_args(['config.py', *arguments])
    )


def test_the_command_compiles_the_parts_of_a_distillation(options: Any) -> None:
    recipe = Config(dict(model=dict(student={}, teacher={})))
    options(recipe, '--compile', '--channels-last')
    assert recipe.model.compile is True
    assert recipe.model.channels_last is True
    assert 'compile' not in recipe


def test_the_command_leaves_a_plain_model_to_mmengine(options: Any) -> None:
    plain = Config(dict(model=dict(type='RetinaNet')))
    options(plain, '--compile')
    assert plain.compile is True
    assert 'compile' not in plain.model
    with pytest.raises(PreflightError, match='--channels-last: only a distillation'):
        options(plain, '--channels-last')


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
