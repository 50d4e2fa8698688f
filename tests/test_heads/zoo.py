"""MMDetection's own detectors, made small enough that a test takes one training step with a teacher in a second."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor

from mmkd.distillers import Distiller
from mmkd.structures import Step

WIDTH = 32
"""What a width of 256 becomes in necks and heads; their group norms have 32 groups by default."""

CKD = dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.PositivesAndTeacherTopK', k=32))

_SMALL: dict[str, dict[Any, Any]] = {
    key: {256: WIDTH}
    for key in (
        'in_channels',
        'out_channels',
        'feat_channels',
        'point_feat_channels',
        'stacked_feat_channels',
        'conv_out_channels',
        'roi_feat_channels',
        'embed_dims',
        'num_channels',
        'channels',
    )
} | {
    'fc_out_channels': {1024: 64},
    'feedforward_channels': {1024: 64, 2048: 64},
    'num_feats': {128: WIDTH // 2},
    'num_queries': {100: 20, 300: 20, 900: 20},
    'num_proposals': {100: 20, 300: 20, 500: 20},
}
"""Key of a config to the values that are replaced, outside of the backbone and the neck's inputs."""


def pair(config: str, **overrides: Any) -> tuple[Config, Config]:
    """Student's and teacher's model configs, small, without pretrained weights, the teacher deeper and wider.

    Args:
        config: A config of MMDetection, such as ``'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'``.
        overrides: Merged into both after shrinking; ``__`` stands for a dot: ``bbox_head__num_classes=3``.
    """
    register_all_modules(init_default_scope=False)
    model = _published(config)
    student, teacher = _shrink(model, deep=False), _shrink(model, deep=True)
    for small in (student, teacher):
        small.merge_from_dict({key.replace('__', '.'): value for key, value in overrides.items()})
    return student, teacher


@functools.cache
def _published(config: str) -> Config:
    return get_config(config).model


def batch(
    num_images: int = 2,
    size: int = 128,
    num_classes: int = 80,
    boxes: Sequence[int] = (3, 2),
    masks: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """A preprocessed batch: ``inputs`` (B, 3, size, size) of noise and ``data_samples`` with ground truth.

    Args:
        num_images: B.
        size: Pixels of height and width.
        num_classes: Labels are drawn from these.
        boxes: Number of objects of each image, 0 allowed; repeated when there are more images.
        masks: Give each object a mask, its box.
        seed: Of all the numbers drawn.
    """
    noise = torch.Generator().manual_seed(seed)
    samples = []
    for number in range(num_images):
        count = boxes[number % len(boxes)]
        corner = torch.rand(count, 2, generator=noise) * size * 0.5
        extent = (0.15 + 0.3 * torch.rand(count, 2, generator=noise)) * size
        bboxes = torch.cat([corner, corner + extent], dim=1)
        objects = InstanceData(
            bboxes=bboxes, labels=torch.randint(num_classes, (count,), generator=noise)
        )
        if masks:
            bitmaps = np.zeros((count, size, size), dtype=np.uint8)
            for bitmap, (left, top, right, bottom) in zip(
                bitmaps, bboxes.int().tolist(), strict=True
            ):
                bitmap[top:bottom, left:right] = 1
            objects.masks = BitmapMasks(bitmaps, size, size)
        sample = DetDataSample(gt_instances=objects)
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        shape = (size, size)
        sample.set_metainfo(
            dict(
                img_id=number,
                img_shape=shape,
                ori_shape=shape,
                pad_shape=shape,
                batch_input_shape=shape,
                scale_factor=(1.0, 1.0),
                flip=False,
            )
        )
        samples.append(sample)
    return dict(
        inputs=torch.randn(num_images, 3, size, size, generator=noise), data_samples=samples
    )


def distiller(
    student: Mapping[str, Any],
    teacher: Mapping[str, Any],
    losses: Mapping[str, Any] | None = None,
    seed: int = 0,
    head: Mapping[str, Any] | None = None,
    teacher_options: Mapping[str, Any] | None = None,
) -> Distiller:
    """A Distiller of two model configs with random weights; ``losses`` is CKD under the name ``ckd`` if left out."""
    register_all_modules(init_default_scope=False)
    torch.manual_seed(seed)
    with mmdet_scope():
        model = Distiller(
            student=student,
            teacher=dict(
                config=dict(model=teacher, default_scope='mmdet'),
                checkpoint='random_init',
                **(teacher_options or {}),
            ),
            losses=dict(ckd=CKD) if losses is None else losses,
            head=head,
        )
        model.init_weights()
    return model.train()


def one_step(
    model: Distiller, data: Mapping[str, Any], of: str | Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Losses of one training step, after their backward pass.

    Args:
        model: The distiller; its gradients are reset first.
        data: What :func:`batch` returns.
        of: Names of the losses, such as ``'loss_ckd'``, whose sum is differentiated; None is the training loss.
    """
    model.zero_grad()
    with mmdet_scope():
        losses = model(**copy.deepcopy(dict(data)), mode='loss')
    total, _ = model.parse_losses(losses)
    if of is not None:
        total = sum(losses[name] for name in ([of] if isinstance(of, str) else of))
    total.backward()
    return losses


def gradients_of_each_loss(
    model: Distiller, data: Mapping[str, Any], module: torch.nn.Module
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses of one training step, and by name the gradient of each distillation loss alone in ``module``."""
    with mmdet_scope():
        losses = model(**copy.deepcopy(dict(data)), mode='loss')
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = {}
    for name in model.distill_losses:
        parts = torch.autograd.grad(
            losses[f'loss_{name}'], parameters, retain_graph=True, materialize_grads=True
        )
        gradients[name] = torch.cat([part.flatten() for part in parts])
    return losses, gradients


def record_steps(model: Distiller) -> list[Step]:
    """A list that gets the Step of every training step from now on, as the distiller's losses see it."""
    steps: list[Step] = []

    def keep(loss: Any, args: tuple[Step], output: Tensor) -> None:
        if not steps or steps[-1] is not args[0]:
            steps.append(args[0])

    for loss in model.distill_losses.values():
        loss.register_forward_hook(keep)
    return steps


def gradient(module: torch.nn.Module) -> Tensor:
    """All gradients of a module's trainable parameters in one vector, 0 where there is none."""
    return torch.cat(
        [
            torch.zeros_like(parameter).flatten()
            if parameter.grad is None
            else parameter.grad.flatten()
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
    )


@contextmanager
def mmdet_scope() -> Iterator[None]:
    """Types without a prefix are MMDetection's, as in a run of it."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def _shrink(model: Config, deep: bool) -> Config:
    small = Config(copy.deepcopy(model.to_dict()))
    for name in small:
        _clean(small[name])
    widths = _backbone(small.backbone, deep)
    neck = small.get('neck')
    inputs = None
    if neck is not None and 'in_channels' in (neck[0] if isinstance(neck, list) else neck):
        first = neck[0] if isinstance(neck, list) else neck
        old = first.in_channels
        inputs = (
            [widths.get(width, width) for width in old]
            if isinstance(old, Sequence)
            else widths.get(old, old)
        )
    for name in small:
        if name not in ('backbone', 'data_preprocessor', 'test_cfg'):
            _replace(small[name])
    if inputs is not None:
        first.in_channels = inputs
    return small


def _clean(node: Any) -> None:
    """Drop pretrained weights everywhere."""
    if isinstance(node, dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            node['init_cfg'] = None
        for value in node.values():
            _clean(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _clean(value)


def _backbone(backbone: Any, deep: bool) -> dict[int, int]:
    """Shrink the backbone in place; returns old width to new width of its outputs."""
    if backbone.type in ('ResNet', 'ResNetV1d'):
        old = 64 if backbone.depth in (18, 34) else 256
        new = 16 if deep else 8
        backbone.depth = 34 if deep else 18
        backbone.base_channels = new
        backbone.stem_channels = new
        return {old * 2**stage: new * 2**stage for stage in range(4)}
    if backbone.type in ('CSPDarknet', 'CSPNeXt'):
        widen = 0.25 if deep else 0.125
        old_widen = backbone.widen_factor
        backbone.widen_factor = widen
        backbone.deepen_factor = 0.67 if deep else 0.33
        return {int(width * old_widen): int(width * widen) for width in (128, 256, 512, 1024)}
    return {}


def _replace(node: Any) -> None:
    """Apply the table of small values in place, in dicts and lists at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            small = _SMALL.get(key)
            if isinstance(value, dict):
                _replace(value)
            elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
                for item in value:
                    _replace(item)
            elif small and isinstance(value, list | tuple):
                node[key] = [small.get(item, item) for item in value]
            elif small and isinstance(value, int):
                node[key] = small.get(value, value)
    elif isinstance(node, list | tuple):
        for item in node:
            _replace(item)
