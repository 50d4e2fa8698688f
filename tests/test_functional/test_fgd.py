from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmkd.functional import fgd_loss

STRIDE = 8
BOXES = torch.tensor(
    [[3.0, 9.0, 21.0, 17.0], [12.0, 8.0, 30.0, 39.0], [0.0, 0.0, 7.0, 6.0]], dtype=torch.float64
)
IMAGES = torch.tensor([0, 0, 2])
"""Of three images the second has no object; two objects of the first overlap."""
WEIGHTS = dict(alpha=0.7, beta=0.3, gamma=0.2, relation=0.1, temperature=0.8)


def make_maps() -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 6, 5, generator=noise, dtype=torch.float64)
    return student.requires_grad_(), teacher


def attentions(features: Tensor, temperature: float) -> tuple[list[list[float]], list[float]]:
    """Of one image, by its definition."""
    channels, height, width = features.shape
    space = [
        [
            math.exp(
                sum(abs(features[c, y, x].item()) for c in range(channels)) / channels / temperature
            )
            for x in range(width)
        ]
        for y in range(height)
    ]
    channel = [math.exp(features[c].abs().mean().item() / temperature) for c in range(channels)]
    total = sum(map(sum, space))
    return (
        [[value * height * width / total for value in row] for row in space],
        [value * channels / sum(channel) for value in channel],
    )


def masks(height: int, width: int, boxes: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Of one image, box by box."""
    objects = torch.zeros(height, width, dtype=torch.float64)
    for left, top, right, bottom in boxes:
        rows = range(math.floor(top / STRIDE), math.ceil(bottom / STRIDE) + 1)
        columns = range(math.floor(left / STRIDE), math.ceil(right / STRIDE) + 1)
        for y in rows:
            for x in columns:
                if y < height and x < width:
                    objects[y, x] = max(objects[y, x].item(), 1 / (len(rows) * len(columns)))
    background = (objects == 0).double()
    return objects, background / background.sum()


def plain_fgd(student: Tensor, teacher: Tensor, weights: dict[str, float]) -> float:
    total = 0.0
    batch, channels, height, width = student.shape
    for image in range(batch):
        own = [box.tolist() for box, of in zip(BOXES, IMAGES, strict=True) if of == image]
        objects, background = masks(height, width, own)
        space, channel = attentions(student[image], weights['temperature'])
        teacher_space, teacher_channel = attentions(teacher[image], weights['temperature'])
        for y in range(height):
            for x in range(width):
                cell = weights['alpha'] * objects[y, x] + weights['beta'] * background[y, x]
                for c in range(channels):
                    difference = (student[image, c, y, x] - teacher[image, c, y, x]).item()
                    total += cell * teacher_space[y][x] * teacher_channel[c] * difference**2
                total += weights['gamma'] * abs(space[y][x] - teacher_space[y][x])
        for ours, theirs in zip(channel, teacher_channel, strict=True):
            total += weights['gamma'] * abs(ours - theirs)
    return float(total) / batch


def test_it_is_the_formula() -> None:
    student, teacher = make_maps()
    loss = fgd_loss(student, teacher, BOXES, IMAGES, STRIDE, **WEIGHTS)
    assert loss.item() == pytest.approx(plain_fgd(student, teacher, WEIGHTS), rel=1e-12)


def test_contexts_add_their_squared_distance_and_both_get_a_gradient() -> None:
    student, teacher = make_maps()
    contexts = [(2 * each.detach()).requires_grad_() for each in (student, teacher)]
    loss = fgd_loss(student, teacher, BOXES, IMAGES, STRIDE, *contexts, **WEIGHTS)
    without = fgd_loss(student, teacher, BOXES, IMAGES, STRIDE, **WEIGHTS)
    expected = 0.1 * 4 * (student - teacher).square().sum() / 3
    torch.testing.assert_close(loss - without, expected)
    loss.backward()
    assert all(each.grad.any() for each in contexts)


def test_gradient_is_the_derivative() -> None:
    student, teacher = make_maps()
    assert torch.autograd.gradcheck(
        lambda maps: fgd_loss(maps, teacher, BOXES, IMAGES, STRIDE, **WEIGHTS), student
    )


def test_an_image_that_is_all_object_has_no_background() -> None:
    student, teacher = make_maps()
    whole = torch.tensor([[0.0, 0.0, 40.0, 48.0]]).repeat(3, 1)
    options = WEIGHTS | dict(gamma=0.0, alpha=0.0)
    loss = fgd_loss(student, teacher, whole, torch.arange(3), STRIDE, **options)
    assert loss.item() == 0


@pytest.mark.parametrize('name', ['alpha', 'beta', 'gamma', 'relation'])
def test_negative_weights_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f'{name}: -1.0 is not zero'):
        fgd_loss(*make_maps(), BOXES, IMAGES, STRIDE, **{name: -1.0})


def test_a_box_with_its_sides_in_the_wrong_order_is_no_object() -> None:
    student, teacher = make_maps()
    wrong = torch.tensor([[20.0, 3.0, 8.0, 9.0]], dtype=torch.float64)
    values = [
        fgd_loss(student, teacher, boxes, IMAGES[: len(boxes)], STRIDE)
        for boxes in (wrong, wrong[:0])
    ]
    torch.testing.assert_close(*values)
