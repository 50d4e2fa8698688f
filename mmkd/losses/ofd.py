"""OFD on features before the ReLU."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd.functional import ofd_loss
from mmkd.registry import LOSSES
from mmkd.structures import FeaturePair, Step

from .features import FeatureLoss


@LOSSES.register_module()
class OFDLoss(FeatureLoss):
    """Maps before the ReLU (OFD, "A Comprehensive Overhaul of Feature Distillation", Heo et al., ICCV 2019).

    See :func:`mmkd.functional.ofd_loss`. Each level counts half as much as the next deeper one. Published with a weight
    of 1e-3 on the stages of a classifier, ``at=['backbone.layer1.before_relu', ...]``; the student's go through a 1×1
    convolution and BN, also where the widths are equal.
    """

    own_connector = dict(type='mmkd.ConvConnector', norm=True)  # noqa: RUF012

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        """The sum over the levels, each divided by 2 for every deeper one."""
        losses = [
            ofd_loss(pair.student, pair.teacher, gather=True) / 2 ** (len(pairs) - 1 - number)
            for number, pair in enumerate(pairs)
        ]
        return torch.stack(losses).sum()
