"""PKT on the pooled features of classifiers."""

from __future__ import annotations

from mmkd.functional import pkt_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class PKTLoss(FeatureLoss):
    """The similarities of a sample to the others, as a distribution (PKT, Passalis and Tefas, ECCV 2018).

    See :func:`mmkd.functional.pkt_loss`. The weight in common use is 30,000. The features are by default those that the
    class layer reads, ``at='pre_logits'``; their widths may differ. The batch is that of all processes.
    """

    function = staticmethod(pkt_loss)
    gathers = True
    pooled = True
    any_width = True
