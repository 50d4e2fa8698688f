"""Which of the teacher's classes is which of the student's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassMap:
    """Brings the teacher's logits to the student's classes, in the student's order.

    A class that only the teacher has is dropped. A softmax teacher with a background keeps its probabilities of the
    student's classes: an object of a dropped class is background to the student, so that the probability of these
    goes to the background. Sigmoid scores do not depend on each other. A softmax without background, a classifier's,
    is normalised anew over the classes that remain.

    Attributes:
        columns: The teacher's class of each of the student's classes; None where both have the same ones in the same
            order, and nothing is to be done.
        num_teacher: Classes of the teacher, background not counted.
    """

    columns: tuple[int, ...] | None = None
    num_teacher: int = 0

    def logits(self, rows: Tensor, dim: int = -1) -> Tensor:
        """The teacher's logits of the student's classes.

        Args:
            rows: Logits (or sigmoid probabilities) of the teacher, its classes along ``dim``, the background last if
                there is one.
            dim: Dimension of the classes.

        Returns:
            The same, with the student's classes along ``dim``, the background last if there is one.
        """
        if self.columns is None:
            return rows
        index = _indices(self.columns, rows)
        selected = rows.index_select(dim, index)
        if rows.shape[dim] == self.num_teacher:
            return selected
        others = sorted(set(range(rows.shape[dim])) - set(self.columns))
        rest = rows.index_select(dim, _indices(others, rows))
        return torch.cat([selected, rest.logsumexp(dim, keepdim=True)], dim=dim)

    def labels(self, labels: Tensor) -> Tensor:
        """The student's class numbers, of any shape, as the teacher's."""
        if self.columns is None:
            return labels
        return _indices(self.columns, labels)[labels]


def _indices(numbers: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(numbers).to(like.device, non_blocking=True)
