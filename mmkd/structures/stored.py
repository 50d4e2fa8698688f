"""What a teacher store keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

StoredRows = dict[str, Tensor]
"""The stored tensors of one image, by name. Their first dimension is the number of rows."""


@dataclass(frozen=True)
class Holding:
    """How much of a teacher's outputs is stored, or asked for.

    Attributes:
        top: Number of samples per image, those that the teacher is most confident of; None for all.
        boxes: Whether predicted boxes are included, with the distributions of their sides if the head has them.
        layers: Which decoder layers, if a head has several.
        positives: If the student's positive samples are included: a fingerprint of the assignment; else None.
    """

    top: int | None = None
    boxes: bool = False
    layers: Literal['last', 'all'] = 'last'
    positives: str | None = None

    def __or__(self, other: Holding) -> Holding:
        """Enough for both."""
        top = None if self.top is None or other.top is None else max(self.top, other.top)
        layers = max(self.layers, other.layers, key=('last', 'all').index)
        positives = other.positives or self.positives
        return Holding(top, self.boxes or other.boxes, layers, positives)

    def __str__(self) -> str:
        what = 'logits and boxes' if self.boxes else 'logits'
        where = ' of all layers' if self.layers == 'all' else ''
        samples = 'all samples' if self.top is None else f'the top {self.top}'
        if self.positives:
            positives = f'the positives of assignment {self.positives}'
            samples = f'{samples} and {positives}' if self.top else positives
        return f'{what} of {samples}{where}'
