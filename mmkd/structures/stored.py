"""What a store keeps of a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

StoredRows = dict[str, Tensor]
"""What is kept of one image, by name; the first dimension of each tensor is the number of rows."""


@dataclass(frozen=True)
class Holding:
    """How much of what a teacher's head outputs is kept, or asked for.

    Attributes:
        top: So many samples of every image, those that the teacher is most confident of; None for all.
        boxes: With the boxes predicted there, and their sides' distributions where the head has them.
        layers: Of which decoder layers, where a head has several.
        positives: With the samples that the student's assignment makes positive: what tells it from others.
    """

    top: int | None = None
    boxes: bool = False
    layers: Literal['last', 'all'] = 'last'
    positives: str | None = None

    def __or__(self, other: Holding) -> Holding:
        """As much as either."""
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
