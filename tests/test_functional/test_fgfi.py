from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmkd.functional import fgfi_loss

STRIDES = [8, 16]
BOXES = torch.tensor(
    [
        [3.0, 9.0, 21.0, 17.0],
        [12.0, 8.0, 39.0, 47.0],
        [0.0, 0.0, 7.0, 6.0],
        [30.0, 30.0, 30.0, 40.0],
    ],
    dtype=torch.float64,
)
IMAGES = torch.tensor([0, 0, 2, 2])
"""Of three images the second has no object; the last object has no area."""
OPTIONS = dict(threshold=0.6, anchor_scales=(1.0, 2.5), anchor_ratios=(0.5, 2.0))


def make_levels() -> tuple[list[Tensor], list[Tensor]]:
    noise = torch.Generator().manual_seed(0)
    shapes = [(3, 2, 7, 5), (3, 2, 4, 3)]
    student, teacher = (
        [torch.randn(shape, generator=noise, dtype=torch.float64) for shape in shapes]
        for _ in range(2)
    )
    return [level.requires_grad_() for level in student], teacher


def anchors(stride: int, height: int, width: int) -> list[tuple[int, int, list[float]]]:
    """Row, column and box of every anchor."""
    found = []
    for y in range(height):
        for x in range(width):
            for scale in OPTIONS['anchor_scales']:
                for ratio in OPTIONS['anchor_ratios']:
                    half = [
                        stride * scale / 2 / math.sqrt(ratio),
                        stride * scale / 2 * math.sqrt(ratio),
                    ]
                    middle = [(x + 0.5) * stride, (y + 0.5) * stride]
                    low = [m - h for m, h in zip(middle, half, strict=True)]
                    high = [m + h for m, h in zip(middle, half, strict=True)]
                    found.append((y, x, low + high))
    return found


def iou(one: list[float], other: list[float]) -> float:
    shared = 1.0
    for low, high in ((0, 2), (1, 3)):
        shared *= max(min(one[high], other[high]) - max(one[low], other[low]), 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def plain_masks(shapes: list[torch.Size]) -> list[Tensor]:
    masks = [torch.zeros(shape[0], *shape[2:], dtype=torch.float64) for shape in shapes]
    for box, image in zip(BOXES.tolist(), IMAGES.tolist(), strict=True):
        found = [
            (level, y, x, iou(anchor, box))
            for level, (stride, shape) in enumerate(zip(STRIDES, shapes, strict=True))
            for y, x, anchor in anchors(stride, *shape[2:])
        ]
        best = max(overlap for *_, overlap in found)
        for level, y, x, overlap in found:
            if overlap > OPTIONS['threshold'] * best:
                masks[level][image, y, x] = 1
    return masks


def test_it_is_the_formula() -> None:
    student, teacher = make_levels()
    masks = plain_masks([level.shape for level in student])
    assert all(0 < mask.mean() < 0.5 for mask in masks)
    assert not any(mask[1].any() for mask in masks)
    total = count = 0.0
    for ours, theirs, mask in zip(student, teacher, masks, strict=True):
        for image, y, x in mask.nonzero().tolist():
            count += 1
            for channel in range(2):
                at = (image, channel, y, x)
                total += (ours[at] - theirs[at]).item() ** 2
    loss = fgfi_loss(student, teacher, BOXES, IMAGES, STRIDES, **OPTIONS)
    assert loss.item() == pytest.approx(total / (2 * count), rel=1e-12)


def test_many_boxes_mark_the_cells_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.Generator().manual_seed(1)
    corners = torch.rand(60, 2, generator=noise, dtype=torch.float64) * 70 - 10
    sizes = torch.rand(60, 2, generator=noise, dtype=torch.float64) * 40
    monkeypatch.setitem(globals(), 'BOXES', torch.cat([corners, corners + sizes], dim=1))
    monkeypatch.setitem(globals(), 'IMAGES', torch.randint(3, (60,), generator=noise))
    student, teacher = make_levels()
    loss = fgfi_loss(student, teacher, BOXES, IMAGES, STRIDES, **OPTIONS)
    gradients = torch.autograd.grad(loss, student)
    for gradient, mask in zip(
        gradients, plain_masks([level.shape for level in student]), strict=True
    ):
        assert torch.equal(gradient.abs().sum(1) > 0, mask > 0)


def test_gradient_is_the_derivative() -> None:
    student, teacher = make_levels()
    assert torch.autograd.gradcheck(
        lambda *maps: fgfi_loss(list(maps), teacher, BOXES, IMAGES, STRIDES, **OPTIONS), student
    )


def test_an_object_is_imitated_at_the_level_of_its_size() -> None:
    maps = [torch.zeros(1, 1, 128 // stride, 128 // stride) for stride in (8, 16)]
    student = [each.clone().requires_grad_() for each in maps]
    for side, level in ((60.0, 0), (128.0, 1)):
        box = torch.tensor([[0.0, 0.0, side, side]])
        loss = fgfi_loss(
            student, [each + 1 for each in maps], box, torch.tensor([0]), [8, 16], threshold=0.9
        )
        touched = [gradient.any().item() for gradient in torch.autograd.grad(loss, student)]
        assert touched == [level == 0, level == 1]


@pytest.mark.parametrize(
    'options',
    [
        dict(threshold=1.5),
        dict(threshold=1.0),
        dict(threshold=0.0),
        dict(anchor_scales=[-1]),
        dict(anchor_ratios=[0]),
    ],
)
def test_options_out_of_range_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        fgfi_loss(*make_levels(), BOXES, IMAGES, STRIDES, **options)
