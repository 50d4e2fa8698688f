"""The teacher's logits in the student's classes, written out one number at a time."""

from __future__ import annotations

import torch

from mmkd.structures import ClassMap

ROWS = torch.tensor([[0.3, -2.0, 1.5, 0.7, -0.1], [4.0, 0.0, -1.0, 2.0, 3.0]], dtype=torch.float64)


def test_the_same_classes_are_left_as_they_are() -> None:
    labels = torch.tensor([1, 0])
    assert ClassMap().logits(ROWS) is ROWS
    assert ClassMap().labels(labels) is labels


def test_columns_without_background_are_selected() -> None:
    selected = ClassMap((3, 0, 1), 5).logits(ROWS)
    assert torch.equal(selected, torch.stack([ROWS[:, 3], ROWS[:, 0], ROWS[:, 1]], dim=1))


def test_another_order_keeps_the_background_last() -> None:
    selected = ClassMap((2, 0, 3, 1), 4).logits(ROWS)
    torch.testing.assert_close(selected, ROWS[:, [2, 0, 3, 1, 4]], rtol=0, atol=1e-12)


def test_dropped_classes_are_background_and_change_no_other_probability() -> None:
    probabilities = ROWS.exp() / ROWS.exp().sum(dim=1, keepdim=True)
    found = ClassMap((2, 0), 4).logits(ROWS).softmax(dim=1)
    torch.testing.assert_close(found[:, 0], probabilities[:, 2])
    torch.testing.assert_close(found[:, 1], probabilities[:, 0])
    rest = probabilities[:, 1] + probabilities[:, 3] + probabilities[:, 4]
    torch.testing.assert_close(found[:, 2], rest)


def test_classes_may_lie_along_any_dimension() -> None:
    maps = torch.randn(2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    for classes in (ClassMap((1, 4), 5), ClassMap((1, 3), 4)):
        expected = classes.logits(maps.movedim(2, -1)).movedim(-1, 2)
        torch.testing.assert_close(classes.logits(maps, dim=2), expected)


def test_labels_become_the_teachers() -> None:
    assert ClassMap((3, 0, 1), 5).labels(torch.tensor([[2, 0], [1, 1]])).tolist() == [
        [1, 3],
        [0, 0],
    ]
