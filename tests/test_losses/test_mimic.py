"""MimicLoss pools the same regions of both networks, each from the level of its size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from mmcv.ops import roi_align
from query_models import models

from mmkd.losses import MimicLoss
from mmkd.structures import Features

FASTER_RCNN = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
DATA = zoo.batch()


def pooled(levels: list[torch.Tensor], regions: torch.Tensor, strides: list[int]) -> torch.Tensor:
    """Region by region."""
    found = []
    for region in regions:
        _, left, top, right, bottom = region.tolist()
        side = ((right - left) * (bottom - top)) ** 0.5
        level = 0
        while level < len(levels) - 1 and side >= 28 * strides[0] * 2**level:
            level += 1
        found.append(roi_align(levels[level], region[None], 7, 1 / strides[level], 0, 'avg', True))
    return torch.cat(found)


def step(config: str, **options: Any) -> tuple[Any, torch.Tensor]:
    model = zoo.distiller(*zoo.pair(config), dict(mimic=dict(type='mmkd.MimicLoss', **options)))
    steps = zoo.record_steps(model)
    value = zoo.one_step(model, DATA, of='loss_mimic')['loss_mimic']
    assert zoo.gradient(model.student.backbone).isfinite().all()
    assert zoo.gradient(model.student.backbone).any()
    return steps[0], value


@pytest.mark.parametrize(
    ('config', 'regions', 'strides'),
    [(RETINANET, 'objects', [8, 16]), (FASTER_RCNN, 'rois', [4, 8, 16, 32])],
)
def test_the_value_is_that_of_the_regions(config: str, regions: str, strides: list[int]) -> None:
    taken, value = step(config, regions=regions, strides=strides)
    if regions == 'objects':
        boxes = [sample.gt_instances.bboxes for sample in DATA['data_samples']]
        places = torch.cat(
            [torch.cat([each.new_full((len(each), 1), i), each], 1) for i, each in enumerate(boxes)]
        )
    else:
        places = taken.record('loss_0')[0]['rois']
        assert len(places) > 10
    pairs = [pair for pair in taken.ask(Features()) if pair.stride in strides]
    student, teacher = (
        pooled([getattr(pair, side) for pair in pairs], places, strides)
        for side in ('student', 'teacher')
    )
    torch.testing.assert_close(value, (student - teacher).square().mean() / 2)


def test_the_teachers_head_is_not_asked() -> None:
    calls = []
    model = zoo.distiller(
        *zoo.pair(FASTER_RCNN), dict(mimic=dict(type='mmkd.MimicLoss', regions='rois'))
    )
    model.teacher.model.roi_head.bbox_head.register_forward_hook(lambda *_: calls.append(1))
    zoo.one_step(model, DATA)
    assert not calls


@pytest.mark.parametrize('strides', [[8], [8, 16]])
def test_without_objects_it_is_zero_and_trains_its_connectors_in_the_graph(
    strides: list[int],
) -> None:
    student, teacher = zoo.pair(RETINANET)
    teacher.neck.out_channels = teacher.bbox_head.in_channels = 48
    connector = dict(type='mmkd.ConvConnector')
    losses = dict(mimic=dict(type='mmkd.MimicLoss', strides=strides, connector=connector))
    model = zoo.distiller(student, teacher, losses)
    value = zoo.one_step(model, zoo.batch(boxes=(0,)), of='loss_mimic')['loss_mimic']
    assert value == 0
    assert all(parameter.grad is not None for parameter in model.distill.parameters())


def test_what_has_no_rois_is_named_before_the_first_step() -> None:
    with pytest.raises(ValueError, match=r'MimicLoss\.regions: RetinaHead samples no RoIs'):
        step(RETINANET, regions='rois')
    rois = dict(type='mmkd.MimicLoss', regions='rois')
    with pytest.raises(ValueError, match=r'MimicLoss\.regions: SparseRoIHead samples no RoIs'):
        zoo.distiller(*models('Sparse R-CNN'), dict(mimic=rois))
    with pytest.raises(ValueError, match=r'MimicLoss\.regions: .all.'):
        MimicLoss(regions='all')
    with pytest.raises(ValueError, match=r'MimicLoss\.size: 0'):
        MimicLoss(size=0)


def test_levels_of_different_widths_are_named_before_the_first_step() -> None:
    connector = dict(type='mmkd.ConvConnector')
    with pytest.raises(ValueError, match=r'MimicLoss: .* levels have .* channels'):
        step(RETINANET, at='backbone', connector=connector)
