"""NST on feature maps."""

from __future__ import annotations

from mmkd.functional import nst_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class NSTLoss(FeatureLoss):
    """The distribution of a map's channels (NST, Huang and Wang, arXiv 1707.01219): :func:`mmkd.functional.nst_loss`.

    Published with a weight of 50, summed over the stages of a classifier,
    ``at=['backbone.layer1', 'backbone.layer2', ...]``. Widths may differ.
    """

    function = staticmethod(nst_loss)
    any_width = True
