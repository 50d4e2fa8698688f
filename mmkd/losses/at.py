"""AT on feature maps."""

from __future__ import annotations

from mmkd.functional import at_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class ATLoss(FeatureLoss):
    """Where in an image a layer is active (AT, Zagoruyko and Komodakis, ICLR 2017): :func:`mmkd.functional.at_loss`.

    Published with a weight of 1000, summed over the stages of a classifier,
    ``at=['backbone.layer1', 'backbone.layer2', ...]``. Widths may differ.
    """

    function = staticmethod(at_loss)
    any_width = True
