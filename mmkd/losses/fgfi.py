"""FGFI on feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mmkd.functional import fgfi_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class FGFILoss(FeatureLoss):
    """Features of the cells near objects (FGFI, Wang et al., CVPR 2019): :func:`mmkd.functional.fgfi_loss`.

    Published with a weight of 0.01. As published a convolution adapts the student's map of every level. It is trained
    with the student and is a part of the loss. The cells are counted over all processes.
    """

    function = staticmethod(fgfi_loss)
    own_connector: ClassVar[Mapping[str, Any]] = dict(type='mmkd.ConvConnector', kernel_size=3)
