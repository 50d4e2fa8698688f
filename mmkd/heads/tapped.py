"""A network whose own training step is tapped for the losses that distil into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd.losses import DistillLoss
from mmkd.structures import Progress, Sources, Step, Taps, TeacherPass

from .build import build_sources
from .features import teacher_taps


class TappedNetwork:
    """A student, the losses that distil into it, and the sources that answer these.

    Args:
        network: The student.
        teachers: The teachers' networks by name.
        losses: The losses by name.
        head: Options of the head adapters.

    Attributes:
        sources: What answers the losses' requests.

    Raises:
        ValueError, TypeError: See :func:`mmkd.heads.build_sources`, and what the losses themselves refuse.
    """

    def __init__(
        self,
        network: Any,
        teachers: Mapping[str, nn.Module],
        losses: Mapping[str, DistillLoss],
        head: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.losses = losses
        requests = {name: loss.requests() for name, loss in losses.items()}
        self.sources: Sources = build_sources(network, teachers, requests, head)
        for loss in losses.values():
            loss.attach(self.sources)
        self._requests = [request for asked in requests.values() for request in asked]
        self._taps = Taps(network, self.sources.taps)

    def paths(self, teacher: str) -> tuple[list[str], bool]:
        """The modules of a teacher whose outputs the losses ask for, and whether they ask for nothing behind these."""
        return teacher_taps(self._requests, teacher)

    def also_tap(self, paths: Mapping[str, str]) -> None:
        """Record more than the losses ask for, for those whom this network teaches."""
        self.detach()
        self._taps = Taps(self.network, {**self.sources.taps, **paths})

    def loss(
        self, inputs: Tensor, data_samples: Sequence[Any] | None
    ) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """The network's own losses, and what the taps recorded of it."""
        with self._taps.recording() as records:
            return self.network.loss(inputs, data_samples), records

    def step(
        self,
        inputs: Tensor,
        data_samples: Sequence[Any] | None,
        records: dict[str, list[Any]],
        teachers: Mapping[str, TeacherPass],
        progress: Progress,
    ) -> Step:
        """The step that the losses look at."""
        return Step(inputs, data_samples or [], records, self.sources, teachers, progress)

    def detach(self) -> None:
        """Take the taps off."""
        self._taps.detach()
