"""VID on features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.functional import vid_loss
from mmkd.functional._common import check_positive
from mmkd.registry import LOSSES
from mmkd.structures import FeaturePair, Step

from .features import FeatureLoss

_LEAST_VARIANCE = 1e-5


@LOSSES.register_module()
class VIDLoss(FeatureLoss):
    """How likely the teacher's maps are, predicted from the student's (VID, Ahn et al., CVPR 2019).

    A network per level predicts the teacher's map, by default :class:`mmkd.connectors.MLPConnector`; the variance of a
    channel is the softplus of a number that is trained, too. See :func:`mmkd.functional.vid_loss`. Published with a
    weight of 1, summed over the stages of a classifier, ``at=['backbone.layer1', 'backbone.layer2', ...]``. Networks
    and variances are a part of the loss: the student without them is the plain student.

    Args:
        initial_variance: Of every channel. Published: 5.
        **options: See :class:`mmkd.losses.FeatureLoss`.

    Raises:
        ValueError: ``initial_variance`` is not positive.
    """

    own_connector = dict(type='mmkd.MLPConnector')  # noqa: RUF012
    pooled = None
    softplus_inverses: nn.ParameterList

    def __init__(self, initial_variance: float = 5.0, **options: Any) -> None:
        super().__init__(**options)
        try:
            check_positive('initial_variance', initial_variance)
        except ValueError as error:
            raise ValueError(f'VIDLoss.{error}') from None
        self.initial_variance = initial_variance

    def _make_layers(self, channels: Mapping[int, tuple[int, int]]) -> None:
        """Make one network and the variances of every level."""
        super()._make_layers(channels)
        start = math.log(math.expm1(self.initial_variance))
        self.softplus_inverses = nn.ParameterList(
            torch.full((theirs,), start) for _, theirs in channels.values()
        )

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        """The negative log likelihood, summed over the levels."""
        values = [
            vid_loss(pair.student, pair.teacher, F.softplus(number) + _LEAST_VARIANCE)
            for pair, number in zip(pairs, self.softplus_inverses, strict=True)
        ]
        return torch.stack(values).sum()
