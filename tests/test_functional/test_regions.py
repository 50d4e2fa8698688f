from __future__ import annotations

import pytest
import torch

from mmkd.functional._regions import paint_boxes, paint_rows


@pytest.mark.parametrize('width', [1, 2, 5, 8, 13])
def test_intervals_paint_the_largest_value_over_each_cell(width: int) -> None:
    noise = torch.Generator().manual_seed(width)
    rows = torch.randint(3, (40,), generator=noise)
    first = torch.randint(-4, width + 3, (40,), generator=noise)
    last = first + torch.randint(-2, width + 2, (40,), generator=noise)
    values = torch.rand(40, generator=noise)
    expected = torch.zeros(3, width)
    for row, left, right, value in zip(rows, first, last, values, strict=True):
        for cell in range(max(int(left), 0), min(int(right), width - 1) + 1):
            expected[row, cell] = max(expected[row, cell], value)
    assert torch.equal(paint_rows(rows, first, last, values, (3, width)), expected)


def test_boxes_stay_in_their_image_and_within_the_map() -> None:
    cells = torch.tensor([[1, 0, 2, 1], [2, 1, 9, 9], [-5, -5, -1, -1], [0, 0, 0, 0]])
    images = torch.tensor([0, 0, 0, 1])
    painted = paint_boxes(cells, images, torch.tensor([0.5, 1.0, 7.0, 2.0]), (3, 3, 4))
    first = [[0, 0.5, 0.5, 0], [0, 0.5, 1, 1], [0, 0, 1, 1]]
    assert painted[0].tolist() == first
    assert painted[1].nonzero().tolist() == [[0, 0]]
    assert not painted[2].any()


def test_no_boxes_paint_nothing() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert not paint_boxes(none.view(0, 4), none, torch.zeros(0), (2, 3, 4)).any()
