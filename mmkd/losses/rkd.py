"""RKD on the pooled features of classifiers."""

from __future__ import annotations

from mmkd.functional import rkd_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class RKDLoss(FeatureLoss):
    """Relations between samples, by distances and angles of pooled features (RKD, Park et al., CVPR 2019).

    See :func:`mmkd.functional.rkd_loss`, whose defaults are the published weights. By default it compares the
    features that the class layer reads, ``at='pre_logits'``; their widths may differ. The batch is that of all
    processes.
    """

    function = staticmethod(rkd_loss)
    gathers = True
    pooled = True
    any_width = True
