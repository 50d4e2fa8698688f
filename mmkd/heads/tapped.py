"""A network with taps on its training step, for the losses that distil into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd.losses import DistillLoss
from mmkd.structures import Progress, Sources, Step, Taps, TeacherPass

from .build import build_sources
from .features import teacher_taps


class TappedNetwork:
    """A student, its distillation losses, and the sources that answer them.

    Args:
        network: The student.
        teachers: The teachers' networks by name.
        losses: The losses by name.
        head: Options of the head adapters.

    Attributes:
        sources: The sources that answer the losses' requests.

    Raises:
        ValueError, TypeError: See :func:`mmkd.heads.build_sources`; or a loss does not suit the pair.
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
        """The teacher's modules whose outputs are asked for, see :func:`teacher_taps`."""
        return teacher_taps(self._requests, teacher)

    def also_tap(self, paths: Mapping[str, str]) -> None:
        """Record more than the losses ask for, because this network also teaches."""
        self.detach()
        self._taps = Taps(self.network, {**self.sources.taps, **paths})

    def loss(
        self, inputs: Tensor, data_samples: Sequence[Any] | None
    ) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """The network's own losses, and the records of the taps."""
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
        """The step that the losses are computed from."""
        return Step(inputs, data_samples or [], records, self.sources, teachers, progress)

    def detach(self) -> None:
        """Take the taps off."""
        self._taps.detach()
