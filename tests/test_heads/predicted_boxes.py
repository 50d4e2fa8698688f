"""The boxes of all priors of a dense head, by the head's own prediction, for tests to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

HUGE = 10**6
"""Pixels of an image whose far border clips no box; the near one is at 0, and clips."""


@torch.no_grad()
def predicted_boxes(head: Any, features: tuple[Tensor, ...]) -> Tensor:
    """(B * P, 4) boxes, clipped to x, y >= 0, ordered by image, level, row, column and prior.

    Prediction sorts boxes by score and drops those of a low one. So it gets scores that fall from prior to prior.
    A head without batch statistics runs in eval mode, whose outputs may be others than those of training.
    """
    training = head.training
    head.train(training and any(isinstance(module, _BatchNorm) for module in head.modules()))
    outputs = list(head(features))
    head.train(training)
    outputs[0] = falling_scores(head, outputs[0])
    images, cells = len(outputs[0][0]), sum(level[0, 0].numel() for level in outputs[0])
    name = type(head).__name__
    if name == 'CenterNetHead':
        (heat,), (sizes,), (offsets,) = outputs
        shape = tuple(4 * cells for cells in heat.shape[-2:])
        boxes, _ = head._decode_heatmap(heat, sizes, offsets, shape, k=cells, kernel=1)
        return boxes[..., :4].flatten(0, 1).clamp(min=0)
    if name in (
        'PAAHead',
        'SSDHead',
    ):  # PAA cannot predict without NMS, MMDetection's SSD not without a loss_cls
        sizes = [level.shape[-2:] for level in outputs[0]]
        anchors = torch.cat(head.prior_generator.grid_priors(sizes, device='cpu'))
        maps = [level.permute(0, 2, 3, 1).reshape(images, -1, 4) for level in outputs[1]]
        code = torch.cat(maps, dim=1)
        return torch.cat([head.bbox_coder.decode(anchors, one) for one in code]).clamp(min=0)
    if name == 'YOLOXHead':  # drops by class times objectness
        outputs[2] = [torch.full_like(level, 10.0) for level in outputs[2]]
    options = ConfigDict(score_thr=0.05, nms_pre=HUGE, min_bbox_size=-1)
    results = head.predict_by_feat(
        *outputs,
        batch_img_metas=[dict(img_shape=(HUGE, HUGE))] * images,
        cfg=options,
        with_nms=False,
    )
    return torch.cat([result.bboxes for result in results]).clamp(min=0)


def falling_scores(head: Any, maps: list[Tensor]) -> list[Tensor]:
    """Class maps of which each prior has one class of a high score, lower than that of the prior before."""
    channels = head.cls_out_channels if hasattr(head, 'cls_out_channels') else head.num_classes
    total = sum(level[0].numel() for level in maps) // channels
    scores = torch.linspace(2, -2, total)
    softmax = not getattr(head, 'use_sigmoid_cls', True)
    falling = []
    for level in maps:
        images, depth, height, width = level.shape
        priors = depth // channels
        count = height * width * priors
        ranks, scores = scores[:count], scores[count:]
        new = torch.full((images, priors, channels, height, width), -6.0 if softmax else -50.0)
        new[:, :, 0] = ranks.view(height, width, priors).permute(2, 0, 1)
        falling.append(new.flatten(1, 2))
    if type(head).__name__ in ('TOODHead', 'CenterNetHead'):  # whose class maps are probabilities
        return [level.sigmoid() for level in falling]
    return falling


@contextmanager
def disturbed(module: nn.Module) -> Iterator[None]:
    """Within the block all weights are off by some noise: an untrained head says nearly the same everywhere."""
    before = [parameter.detach().clone() for parameter in module.parameters()]
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(module.parameters(), before, strict=True):
                parameter.copy_(old)
