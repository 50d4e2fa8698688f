"""What observers, such as hooks, see of a training step."""

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
        progress: How far training has come.
        task: The student's own losses, as its ``loss`` returned them.
        weights: Current weight of every distillation loss; a scalar tensor if the recipe sets a share of the gradient
            instead.
        values: Unweighted scalar of each distillation loss with a weight other than 0, attached to the graph.
        step: The step with the answers that the losses asked for; None if every weight is 0.
    """

    progress: Progress
    task: Mapping[str, Any]
    weights: Mapping[str, float | Tensor]
    values: Mapping[str, Tensor]
    step: Step | None


Observer = Callable[[StepRecord], None]
