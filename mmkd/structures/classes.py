"""Matches the teacher's classes with the student's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassMap:
    """Maps the teacher's logits to the student's classes, in the student's order.

    Classes that only the teacher has are dropped. What happens to their probability depends on the head:

    - softmax with background: it is added to the background, which is what such an object is to the student. The
      probabilities of the other classes stay the same;
    - sigmoid: nothing, as the scores do not depend on each other;
    - softmax without background (a classifier): the remaining classes are normalised again.

    Attributes:
        columns: For each class of the student, the index of the teacher's class. None if both have the same classes in
            the same order: logits stay as they are.
        num_teacher: Number of the teacher's classes, without background.
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
