"""Samplers on hand-made tables: exactly which samples they pick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.losses import (
    AllSamples,
    MatchedQueries,
    Negatives,
    Positives,
    PositivesAndTeacherTopK,
    TeacherTopK,
)
from mmkd.structures import SampleTable

CONFIDENCE = [0.1, 0.9, 0.5, 0.8, 0.2, 0.7, 0.3]


@dataclass
class ConfidenceTable(SampleTable):
    """Of samples only the teacher's confidence is known; asking for a logit fails."""

    confidence: Tensor

    def student_logits(self, index: Tensor) -> Tensor:
        raise AssertionError('a sampler needs no logits')

    teacher_logits = student_logits

    def teacher_confidence(self) -> Tensor:
        return self.confidence


def make_table(samples_per_image: list[int], labels: list[int] | None, **replaced: Any) -> Any:
    count = sum(samples_per_image)
    fields: dict[str, Any] = dict(
        activation='sigmoid',
        num_classes=3,
        samples_per_image=samples_per_image,
        labels=None if labels is None else torch.tensor(labels, dtype=torch.long),
        weights=torch.ones(count),
        object_ids=torch.full((count,), -1),
        confidence=torch.tensor(CONFIDENCE[:count]),
    )
    return ConfidenceTable(**(fields | replaced))


LABELS = [3, 3, 0, 3, 2, 3, -1]


@pytest.mark.parametrize(
    ('sampler', 'picked'),
    [
        (AllSamples(), [0, 1, 2, 3, 4, 5, 6]),
        (Positives(), [2, 4]),
        (Negatives(), [0, 1, 3, 5]),
        (MatchedQueries(), [0, 1, 2, 3, 4, 5, 6]),
        (MatchedQueries(which='positives'), [2, 4]),
        (MatchedQueries(which='negatives'), [0, 1, 3, 5, 6]),
        (TeacherTopK(k=1), [1, 3]),
        (TeacherTopK(k=2), [1, 2, 3, 5]),
        (TeacherTopK(k=100), [0, 1, 2, 3, 4, 5, 6]),
        (PositivesAndTeacherTopK(k=1), [1, 2, 3, 4]),
    ],
)
def test_picks(sampler: Any, picked: list[int]) -> None:
    assert sampler(make_table([3, 4], LABELS)).tolist() == picked


def test_matched_queries_of_no_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"MatchedQueries\.which: 'best' is none of all"):
        MatchedQueries(which='best')


def test_top_k_counts_per_image_and_passes_over_an_image_without_samples() -> None:
    assert TeacherTopK(k=1)(make_table([2, 0, 5], LABELS)).tolist() == [1, 3]


def test_a_positive_that_the_student_ignores_is_not_picked() -> None:
    weights = torch.tensor([1, 1, 0, 1, 1, 1, 1.0])
    table = make_table([3, 4], LABELS, weights=weights)
    assert Positives()(table).tolist() == [4]


def test_positives_whose_number_is_known_are_the_same() -> None:
    assert Positives()(make_table([3, 4], LABELS, num_foreground=2)).tolist() == [2, 4]
    assert Positives()(make_table([3, 4], [3] * 7, num_foreground=0)).tolist() == []


@pytest.mark.parametrize('number', [0, 1, 3])
def test_a_number_of_positives_that_is_wrong_is_noticed(number: int) -> None:
    with pytest.raises(RuntimeError, match=r'SampleTable\.num_foreground'):
        Positives()(make_table([3, 4], LABELS, num_foreground=number))


@pytest.mark.parametrize(
    'sampler', [AllSamples(), Positives(), TeacherTopK(k=3), PositivesAndTeacherTopK(k=3)]
)
@pytest.mark.parametrize('samples_per_image', [[0, 0], []])
def test_no_samples_give_none(sampler: Any, samples_per_image: list[int]) -> None:
    index = sampler(make_table(samples_per_image, []))
    assert index.tolist() == []
    assert index.dtype == torch.long


def test_without_ground_truth_there_are_no_positives_but_the_teachers_top_k() -> None:
    table = make_table([3, 4], [3] * 7)
    assert Positives()(table).tolist() == []
    assert PositivesAndTeacherTopK(k=1)(table).tolist() == [1, 3]


def test_without_labels_there_are_no_positives() -> None:
    assert Positives()(make_table([3, 4], None)).tolist() == []


@pytest.mark.parametrize('kind', [TeacherTopK, PositivesAndTeacherTopK])
@pytest.mark.parametrize('k', [0, -1, 2.5, 8.0, '8', None])
def test_a_k_that_is_no_number_of_samples_is_refused(kind: type, k: Any) -> None:
    with pytest.raises(ValueError, match=rf'{kind.__name__}\.k: {k!r}'):
        kind(k=k)


def test_samplers_that_pick_the_same_are_equal_keys_and_others_are_not() -> None:
    samplers = {AllSamples(), AllSamples(), Positives(), TeacherTopK(2), TeacherTopK(2)}
    assert samplers == {AllSamples(), Positives(), TeacherTopK(2)}
    assert TeacherTopK(2) != TeacherTopK(3)
    assert TeacherTopK(2) != PositivesAndTeacherTopK(2)
