from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmkd.functional import defeat_loss

STRIDES = [2, 4]
BOXES = torch.tensor(
    [[3.0, 9.0, 11.0, 17.0], [1.0, -5.0, 90.0, 80.0], [7.0, 6.0, 7.5, 6.5]], dtype=torch.float64
)
IMAGES = torch.tensor([0, 0, 2])
"""Of three images the second has no object; the second object is of the second level; the last one is tiny."""


def make_levels() -> tuple[list[Tensor], list[Tensor]]:
    noise = torch.Generator().manual_seed(0)
    shapes = [(3, 2, 9, 8), (3, 2, 5, 4)]
    student, teacher = (
        [torch.randn(shape, generator=noise, dtype=torch.float64) for shape in shapes]
        for _ in range(2)
    )
    return [level.requires_grad_() for level in student], teacher


def plain_mask(shape: torch.Size, level: int) -> Tensor:
    """Box by box and cell by cell."""
    batch, _, height, width = shape
    mask = torch.zeros(batch, height, width, dtype=torch.float64)
    for (left, top, right, bottom), image in zip(BOXES.tolist(), IMAGES.tolist(), strict=True):
        side = math.sqrt((right - left) * (bottom - top))
        own = min(max(math.floor(math.log2(side / (14 * STRIDES[0]) + 1e-6)), 0), len(STRIDES) - 1)
        if own != level:
            continue
        x, y, x_end, y_end = (math.floor(v / STRIDES[level]) for v in (left, top, right, bottom))
        for row in range(max(y, 0), min(max(y_end, y + 1), height)):
            for column in range(max(x, 0), min(max(x_end, x + 1), width)):
                mask[image, row, column] = 1
    return mask


def test_it_is_the_formula() -> None:
    student, teacher = make_levels()
    expected = 0.0
    for level, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        mask = plain_mask(ours.shape, level)
        assert 0 < mask.mean() < 1
        sums = {0.0: 0.0, 1.0: 0.0}
        for image, channel, row, column in torch.cartesian_prod(*map(torch.arange, ours.shape)):
            at = (image, channel, row, column)
            sums[mask[image, row, column].item()] += (ours[at] - theirs[at]).item() ** 2
        objects, background = mask.sum().item(), (1 - mask).sum().item()
        expected += 0.7 * sums[1.0] / (2 * objects * 2) + 0.3 * sums[0.0] / (2 * background * 2)
    loss = defeat_loss(student, teacher, BOXES, IMAGES, STRIDES, objects=0.7, background=0.3)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-12)


def test_gradient_is_the_derivative() -> None:
    student, teacher = make_levels()
    assert torch.autograd.gradcheck(
        lambda *maps: defeat_loss(list(maps), teacher, BOXES, IMAGES, STRIDES), student
    )


def test_without_objects_all_is_background() -> None:
    student, teacher = make_levels()
    none = BOXES[:0], IMAGES[:0], STRIDES
    loss = defeat_loss(student, teacher, *none, background=6.0)
    means = [(ours - theirs).square().mean() for ours, theirs in zip(student, teacher, strict=True)]
    torch.testing.assert_close(loss, 3.0 * torch.stack(means).mean())
    assert defeat_loss(student, teacher, *none, background=0.0) == 0


@pytest.mark.parametrize('name', ['objects', 'background'])
def test_negative_weights_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f'{name}: -1.0 is not zero'):
        defeat_loss(*make_levels(), BOXES, IMAGES, STRIDES, **{name: -1.0})
