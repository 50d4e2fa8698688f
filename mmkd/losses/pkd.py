"""PKD on feature maps."""

from __future__ import annotations

from torch import Tensor

from mmkd.functional import pkd_loss
from mmkd.registry import LOSSES
from mmkd.structures import FeaturePair, Step

from .features import FeatureLoss


@LOSSES.register_module()
class PKDLoss(FeatureLoss):
    """Pearson correlation of neck maps (PKD, Cao et al., NeurIPS 2022): :func:`mmkd.functional.pkd_loss`.

    Published on the first four levels of a neck, with a weight of 6 to 10 (configs/_base_/methods/detectors.py). The
    published form trains nothing and needs necks of equal width; for others set a connector. Channels are standardised
    over the maps of all processes.
    """

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        """1 - Pearson per level, summed over levels."""
        return pkd_loss(
            [pair.student for pair in pairs], [pair.teacher for pair in pairs], gather=True
        )

    def averaged_by(self, pairs: list[FeaturePair]) -> None:
        """None: the function correlates over all processes itself."""
