from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmkd.functional import bckd_box_loss, box_giou_loss, box_l1_loss, ld_loss

WEIGHTS = [0.5, 0.0, 2.0, 1.0, 0.1, 3.0]


def make_side_logits(num_boxes: int = 6, bins: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_boxes, 4, bins)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def make_boxes(num_boxes: int = 6):
    numbers = torch.rand(2, num_boxes, 4, generator=torch.Generator().manual_seed(0)).double()
    corners = 30 * numbers[..., :2]
    student, teacher = torch.cat([corners, corners + 1 + 40 * numbers[..., 2:]], dim=-1)
    return student.requires_grad_(), teacher


def softmax(logits: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(logit / temperature) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials]


def generalized_overlap(a: list[float], b: list[float]) -> float:
    def area(box):
        return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)

    low, high = list(map(max, a, b)), list(map(min, a, b))
    intersection = area([low[0], low[1], high[2], high[3]])
    enclosure = area([high[0], high[1], low[2], low[3]])
    union = area(a) + area(b) - intersection
    return intersection / union - (enclosure - union) / enclosure


@pytest.mark.parametrize('temperature', [1.0, 10.0])
def test_ld_is_the_formula(temperature):
    student, teacher = make_side_logits()
    expected = 0.0
    for s_box, t_box, weight in zip(student.tolist(), teacher.tolist(), WEIGHTS, strict=True):
        for s, t in zip(s_box, t_box, strict=True):
            q, p = softmax(s, temperature), softmax(t, temperature)
            divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            expected += weight * divergence / 4
    expected *= temperature**2
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    loss = ld_loss(student, teacher, temperature, weights)
    assert loss.item() == pytest.approx(expected / sum(WEIGHTS), rel=1e-10)
    loss = ld_loss(student, teacher, temperature, weights, avg_factor=3)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-10)


def test_ld_wants_four_sides():
    logits = torch.zeros(6, 5, 8)
    with pytest.raises(ValueError, match=r'shape \(6, 5, 8\) is not \(N, 4, bins\)'):
        ld_loss(logits, logits)


def test_l1_is_the_formula():
    student, teacher = make_boxes()
    expected = 0.0
    for s_box, t_box, weight in zip(student.tolist(), teacher.tolist(), WEIGHTS, strict=True):
        expected += weight * sum(abs(s - t) for s, t in zip(s_box, t_box, strict=True))
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    loss = box_l1_loss(student, teacher, weights)
    assert loss.item() == pytest.approx(expected / sum(WEIGHTS), rel=1e-10)
    loss = box_l1_loss(student, teacher, weights, avg_factor=torch.tensor(3.0))
    assert loss.item() == pytest.approx(expected / 3, rel=1e-10)


def test_giou_is_the_formula():
    student, teacher = make_boxes()
    overlaps = list(map(generalized_overlap, student.tolist(), teacher.tolist()))
    assert min(overlaps) < 0 < max(overlaps)
    expected = sum(w * (1 - overlap) for w, overlap in zip(WEIGHTS, overlaps, strict=True))
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    loss = box_giou_loss(student, teacher, weights)
    assert loss.item() == pytest.approx(expected / sum(WEIGHTS), rel=1e-7)
    loss = box_giou_loss(student, teacher, weights, avg_factor=3)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-7)


def test_bckd_boxes_are_the_formula():
    student, teacher = make_boxes()
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = [0.5, 1.0, 0.0, 2.0, 1.0, 0.3]
    total = 0.0
    for a, b, s, t, weight in zip(
        student.tolist(), teacher.tolist(), *logits.tolist(), weights, strict=True
    ):
        gaps = [
            abs(1 / (1 + math.exp(-x)) - 1 / (1 + math.exp(-y))) for x, y in zip(s, t, strict=True)
        ]
        total += weight * max(gaps) * (1 - generalized_overlap(a, b))
    logits.requires_grad_()
    loss = bckd_box_loss(student, teacher, *logits, torch.tensor(weights), avg_factor=3)
    assert loss.item() == pytest.approx(total / 3, rel=1e-6)
    loss.backward()
    assert logits.grad is None


def test_giou_does_not_depend_on_the_unit_but_l1_does():
    student, teacher = make_boxes()
    giou, l1 = box_giou_loss(student, teacher).item(), box_l1_loss(student, teacher).item()
    assert box_giou_loss(8 * student, 8 * teacher).item() == pytest.approx(giou, rel=1e-7)
    assert box_l1_loss(8 * student, 8 * teacher).item() == pytest.approx(8 * l1, rel=1e-12)


@pytest.mark.parametrize('loss', [box_l1_loss, box_giou_loss])
def test_boxes_have_four_numbers(loss):
    boxes = torch.zeros(6, 5)
    with pytest.raises(ValueError, match=r'boxes: shape \(6, 5\) is not \(N, 4\)'):
        loss(boxes, boxes)


def test_giou_of_large_half_precision_boxes_does_not_overflow():
    """The area of this box is 16 times the largest float16."""
    student = torch.tensor([[0.0, 0.0, 1024.0, 1024.0]], dtype=torch.float16, requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, 1024.0, 512.0]], dtype=torch.float16)
    loss = box_giou_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0.5, rel=1e-5)
    assert student.grad.isfinite().all()


def test_torchvision_is_not_loaded_before_it_is_needed():
    # MMEngine, which `import mmkd` would find, loads torchvision itself.
    program = """
import sys
sys.modules['mmengine'] = None
import mmkd.functional
print('torchvision' in sys.modules)
"""
    finished = subprocess.run(
        [sys.executable, '-c', program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.stdout.strip() == 'False', finished.stderr
