from __future__ import annotations

import pytest
import torch

from mmkd.functional import mimic_loss


def test_it_is_half_the_mean_square_of_the_regions() -> None:
    noise = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, 2, 2, generator=noise, dtype=torch.float64)
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        squares = [
            (a - b) ** 2
            for a, b in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True)
        ]
        total += sum(squares) / len(squares)
    assert mimic_loss(student, teacher).item() == pytest.approx(total / (2 * 5), rel=1e-12)
