"""NKD on the logits of softmax heads and classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from mmkd.functional import nkd_loss
from mmkd.registry import LOSSES
from mmkd.structures import Activation, LogitPairs

from ._labels import targets
from .base import LogitLoss, Rows
from .schedules import Schedule


@LOSSES.register_module()
class NKDLoss(LogitLoss):
    """Cross entropies with the teacher, the other classes normalised (Yang et al., ICCV 2023), for softmax heads.

    See :func:`mmkd.functional.nkd_loss`. The target is what the student's own assignment says, background included; a
    sample counts with its weight in the student's own loss.

    Args:
        weight: Weight or schedule.
        gamma: γ, weight of the other classes. Published: 1.5.
        temperature: λ, of the other classes only. Published: 1.
        samples: Config of a sampler; default all samples.
        rows: ``'raw'`` (default), ``'center'`` or ``'standardize'`` (LSKD).

    Raises:
        ValueError: An option is out of its range, or (by :meth:`attach`) the head is a sigmoid head, or (in the first
            step) the head gives no labels.
    """

    activation: ClassVar[Activation | None] = 'softmax'
    instead: ClassVar[str] = "mmkd.AEKTLoss with explicit='nkd', whose target term is binary there"

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        gamma: float = 1.5,
        temperature: float = 1.0,
        samples: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
    ) -> None:
        super().__init__(weight, samples, rows)
        self.gamma = gamma
        self.temperature = temperature
        self._check_options('softmax')

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        """See :func:`mmkd.functional.nkd_loss`."""
        labels, weights = targets(pairs, 'NKDLoss')
        return nkd_loss(student, teacher, labels, self.gamma, self.temperature, weights=weights)
