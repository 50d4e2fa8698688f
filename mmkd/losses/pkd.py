"""PKD on neck features."""

from __future__ import annotations

from torch import Tensor

from mmkd.functional import pkd_loss
from mmkd.registry import LOSSES
from mmkd.structures import FeaturePair

from .base import FeatureLoss


@LOSSES.register_module()
class PKDLoss(FeatureLoss):
    """Pearson correlation of neck maps (PKD, Cao et al., NeurIPS 2022); the published weight is 6 to 10.

    See :func:`mmkd.functional.pkd_loss`. As published it trains nothing and wants necks of equal width; between others
    a connector is needed.
    """

    def compute(self, pairs: list[FeaturePair]) -> Tensor:
        """1 - Pearson per level, summed over levels."""
        return pkd_loss([pair.student for pair in pairs], [pair.teacher for pair in pairs])
