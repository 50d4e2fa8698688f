"""SP on features of classifiers."""

from __future__ import annotations

from mmkd.functional import sp_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class SPLoss(FeatureLoss):
    """Which samples of a batch are similar (SP, Tung and Mori, ICCV 2019): :func:`mmkd.functional.sp_loss`.

    Published with a weight of 3000 on the maps of a classifier's last stage, ``at='backbone'``. Pooled features are
    taken, too, and widths may differ. The batch is that of all processes; of maps of different size the smaller ones
    are padded with zeros.
    """

    function = staticmethod(sp_loss)
    gathers = True
    pooled = None
    any_width = True
