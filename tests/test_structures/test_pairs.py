"""Aligned pairs: what they refuse, and which samples they call the same object."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmkd.structures import BoxPairs, LogitPairs


def make_pairs(count: int = 3, **replaced: Any) -> LogitPairs:
    fields: dict[str, Any] = dict(
        student=torch.zeros(count, 4),
        teacher=torch.ones(count, 4),
        activation='sigmoid',
        num_classes=4,
        labels=None,
        weights=torch.ones(count),
        image_ids=torch.zeros(count, dtype=torch.long),
        object_ids=torch.full((count,), -1),
    )
    return LogitPairs(**(fields | replaced))


def test_length_is_the_number_of_samples() -> None:
    assert len(make_pairs(5)) == 5
    assert len(make_pairs(0)) == 0


def test_logits_that_are_not_aligned_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r'student \(3, 4\) and teacher \(3, 5\) are not aligned'):
        make_pairs(teacher=torch.zeros(3, 5))


def test_object_groups_tell_apart_images_and_objects() -> None:
    image_ids = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    object_ids = torch.tensor([0, 1, 0, -1, 0, 1, -1])
    groups = make_pairs(7, image_ids=image_ids, object_ids=object_ids).object_groups.tolist()
    assert groups[3] == groups[6] == -1
    assert groups[0] == groups[2]
    assert len({groups[0], groups[1], groups[4], groups[5]}) == 4
    assert min(groups[:3] + groups[4:6]) >= 0


@pytest.mark.parametrize('count', [0, 2])
def test_without_any_object_all_groups_are_none(count: int) -> None:
    assert make_pairs(count).object_groups.tolist() == [-1] * count


def test_where_samples_lie_is_asked_for_once_and_only_when_read() -> None:
    asked = []

    def locate() -> torch.Tensor:
        asked.append(1)
        return torch.zeros(3, 4)

    pairs = make_pairs(locate=locate)
    assert not asked
    assert pairs.boxes is pairs.boxes
    assert len(asked) == 1
    assert make_pairs().boxes is None


def make_box_pairs(count: int = 3, **replaced: Any) -> BoxPairs:
    fields: dict[str, Any] = dict(
        student=torch.zeros(count, 4),
        teacher=torch.ones(count, 4),
        student_confidence=torch.ones(count),
        teacher_confidence=torch.ones(count),
        image_sizes=torch.ones(count, 2),
        labels=None,
        weights=torch.ones(count),
        image_ids=torch.zeros(count, dtype=torch.long),
        object_ids=torch.full((count,), -1),
    )
    return BoxPairs(**(fields | replaced))


def test_boxes_that_are_not_aligned_are_refused() -> None:
    assert len(make_box_pairs(2)) == 2
    with pytest.raises(ValueError, match=r'boxes of student \(3, 4\) and teacher \(2, 4\)'):
        make_box_pairs(teacher=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r'box distributions of student \(3, 4, 17\) and teacher'):
        make_box_pairs(
            student_distributions=torch.zeros(3, 4, 17), teacher_distributions=torch.zeros(3, 4, 9)
        )
