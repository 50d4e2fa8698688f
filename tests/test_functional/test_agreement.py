"""Agreement of two networks against counts made by hand and plain loops."""

from __future__ import annotations

import pytest
import torch

from mmkd.functional.agreement import cosine_similarities, matches, same_top1


def test_similarities_are_cosines_of_the_teachers_rows_with_the_students() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    similarities = cosine_similarities(student, teacher)
    for i in range(5):
        for j in range(5):
            cosine = teacher[i] @ student[j] / teacher[i].norm() / student[j].norm()
            assert similarities[i, j] == pytest.approx(float(cosine), abs=1e-12)


def test_the_diagonal_wins_where_no_other_column_reaches_it() -> None:
    similarities = torch.tensor([[0.9, 0.1, 0.2], [0.6, 0.5, 0.1], [0.3, 0.7, 0.7]])
    assert matches(similarities).tolist() == [True, False, False], 'a tie is no win'


def test_samples_of_one_object_do_not_compete() -> None:
    similarities = torch.tensor([[0.5, 0.9, 0.2], [0.9, 0.5, 0.2], [0.1, 0.3, 0.2]])
    same = torch.zeros(3, 3, dtype=torch.bool)
    assert matches(similarities, same).tolist() == [False, False, False]
    same[0, 1] = same[1, 0] = True
    assert matches(similarities, same).tolist() == [True, True, False]


@pytest.mark.parametrize('samples', [0, 1])
def test_nothing_to_compete_with(samples: int) -> None:
    assert matches(torch.zeros(samples, samples)).tolist() == [True] * samples


def test_top1_compares_the_highest_class() -> None:
    student = torch.tensor([[1.0, 2.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    teacher = torch.tensor([[0.0, 9.0, 8.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.1]])
    assert same_top1(student, teacher).tolist() == [True, False, True]
