"""Sample tables: pairs carry the rows, labels and objects of exactly the picked samples."""

from __future__ import annotations

from dataclasses import dataclass

import given_boxes
import pytest
import torch
from torch import Tensor

from mmkd.structures import SampleTable


@dataclass
class HandMadeTable(SampleTable):
    """Logits that are given."""

    student: Tensor
    teacher: Tensor

    def student_logits(self, index: Tensor) -> Tensor:
        return self.student[index]

    def teacher_logits(self, index: Tensor) -> Tensor:
        return self.teacher[index]

    def teacher_confidence(self) -> Tensor:
        return self.teacher.sigmoid().amax(dim=1)


def make_table(labels: list[int] | None = None, weights: list[float] | None = None) -> SampleTable:
    rows = torch.arange(10.0).view(5, 2)
    return HandMadeTable(
        activation='sigmoid',
        num_classes=2,
        samples_per_image=[2, 0, 3],
        labels=None if labels is None else torch.tensor(labels),
        weights=torch.ones(5) if weights is None else torch.tensor(weights),
        object_ids=torch.tensor([-1, 0, -1, 1, 0]),
        student=rows.clone().requires_grad_(),
        teacher=-rows.clone().requires_grad_(),
    )


def test_image_ids_follow_the_samples_per_image_and_skip_empty_images() -> None:
    table = make_table()
    assert table.image_ids.tolist() == [0, 0, 2, 2, 2]
    assert len(table) == 5


def test_pairs_hold_the_picked_samples_and_all_that_belongs_to_them() -> None:
    table = make_table(labels=[2, 0, 2, 1, 0], weights=[1, 2, 3, 4, 5])
    pairs = table.pairs(lambda _: torch.tensor([1, 4]))
    assert pairs.student.tolist() == [[2, 3], [8, 9]]
    assert pairs.teacher.tolist() == [[-2, -3], [-8, -9]]
    assert pairs.labels is not None
    assert pairs.labels.tolist() == [0, 0]
    assert pairs.weights.tolist() == [2, 5]
    assert pairs.image_ids.tolist() == [0, 2]
    assert pairs.object_ids.tolist() == [0, 0]
    assert pairs.boxes is None
    assert (pairs.activation, pairs.num_classes) == ('sigmoid', 2)


def test_gradient_reaches_the_picked_rows_of_the_student_and_nothing_of_the_teacher() -> None:
    table = make_table()
    pairs = table.pairs(lambda _: torch.tensor([3]))
    assert not pairs.teacher.requires_grad
    pairs.student.sum().backward()
    assert table.student.grad.tolist() == [[0, 0]] * 3 + [[1, 1], [0, 0]]


def test_a_sampler_runs_without_gradient() -> None:
    def sampler(table: SampleTable) -> Tensor:
        assert not torch.is_grad_enabled()
        return torch.tensor([0])

    assert make_table().pairs(sampler).student.requires_grad


def test_foreground_is_what_the_student_assigned_and_weighs() -> None:
    labels, weights = [2, 0, -1, 1, 0], [1.0, 1.0, 1.0, 1.0, 0.0]
    assert make_table(labels, weights).is_foreground().tolist() == [False, True, False, True, False]


def test_without_labels_nothing_is_foreground_and_pairs_have_none() -> None:
    table = make_table()
    assert not table.is_foreground().any()
    assert table.pairs(lambda _: torch.tensor([0])).labels is None


def test_a_table_without_boxes_says_so() -> None:
    table = make_table()
    for boxes in (table.student_boxes, table.teacher_boxes):
        with pytest.raises(NotImplementedError, match='HandMadeTable has no predicted boxes'):
            boxes(torch.tensor([0]))
    assert table.student_distributions(torch.tensor([0])) is None
    assert table.teacher_distributions(torch.tensor([0])) is None


def test_confidence_is_the_highest_foreground_probability() -> None:
    rows = torch.tensor([[1.0, -1.0, 5.0], [0.0, 0.5, -1.0]])
    table = make_table()
    torch.testing.assert_close(table.highest_foreground(rows), rows.sigmoid().amax(1))
    table.activation = 'softmax'  # the last column is the background
    torch.testing.assert_close(table.highest_foreground(rows), rows.softmax(1)[:, :2].amax(1))
    assert not table.student_confidence(torch.tensor([3])).requires_grad


def test_box_pairs_hold_the_picked_samples_and_all_that_belongs_to_them() -> None:
    table = given_boxes.make_table()
    index = torch.tensor([2, 8])
    pairs = table.box_pairs(lambda _: index, torch.tensor([[100.0, 60.0], [50.0, 80.0]]))
    assert torch.equal(pairs.student, table.student[index])
    assert torch.equal(pairs.teacher, table.teacher[index])
    assert not pairs.teacher.requires_grad
    torch.testing.assert_close(pairs.student_confidence.double(), table.ours[index])
    assert torch.equal(pairs.teacher_confidence, table.theirs[index])
    assert pairs.image_sizes.tolist() == [[100, 60], [50, 80]]
    assert pairs.labels.tolist() == [0, 1]
    assert pairs.weights.tolist() == [2, 1]
    assert pairs.image_ids.tolist() == [0, 1]
    assert torch.equal(pairs.student_distributions, table.student_bins[index])
    assert not pairs.teacher_distributions.requires_grad
