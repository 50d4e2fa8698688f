"""ICKD on feature maps."""

from __future__ import annotations

from mmkd.functional import ickd_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class ICKDLoss(FeatureLoss):
    """Which channels of a map are active together (ICKD, Liu et al., ICCV 2021): :func:`mmkd.functional.ickd_loss`.

    Published with a weight of 2.5 on the maps of a classifier's last stage, ``at='backbone'``, behind a 1×1 convolution
    and BN: ``connector=dict(type='mmkd.ConvConnector', norm=True)``.
    """

    function = staticmethod(ickd_loss)
