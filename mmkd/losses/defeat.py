"""DeFeat on feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mmkd.functional import defeat_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class DeFeatLoss(FeatureLoss):
    """Maps of objects and background with weights of their own (DeFeat, Guo et al., CVPR 2021).

    See :func:`mmkd.functional.defeat_loss`, whose defaults are published for Faster R-CNN; ``weight`` multiplies both
    parts. As published a convolution adapts the student's map of every level. It is trained with the student and is a
    part of the loss. Cells are counted over all processes.

    DeFeat also distils the RoIs' class logits, objects and background apart: see ``defeat_rcnn`` in
    configs/_base_/methods/detectors.py.
    """

    function = staticmethod(defeat_loss)
    own_connector: ClassVar[Mapping[str, Any]] = dict(type='mmkd.ConvConnector', kernel_size=3)
