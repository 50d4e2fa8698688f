"""What one training step leaves behind for those who look on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmkd.structures import Progress, Step


@dataclass(frozen=True)
class StepRecord:
    """One training step, before its backward pass.

    Attributes:
        progress: Where training is.
        task: The student's own losses, as its ``loss`` returned them.
        weights: Weight of every distillation loss at this point of training; a scalar tensor where it is made of a
            share of the gradient.
        values: Unweighted scalar of each distillation loss whose weight is not 0, attached to the graph.
        step: The pairs, built as far as the losses asked for them; None if every weight is 0.
    """

    progress: Progress
    task: Mapping[str, Any]
    weights: Mapping[str, float | Tensor]
    values: Mapping[str, Tensor]
    step: Step | None


Observer = Callable[[StepRecord], None]
