"""FitNet on features."""

from __future__ import annotations

from mmkd.functional import fitnet_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class FitNetLoss(FeatureLoss):
    """The squared difference of features (FitNets, Romero et al., ICLR 2015): :func:`mmkd.functional.fitnet_loss`.

    In common use with a weight of 100 on one stage in the middle of a classifier, ``at='backbone.layer2'``, behind a
    1×1 convolution where the student is thinner: ``connector=dict(type='mmkd.ConvConnector')``. The paper trains on
    this loss first and on labels later, which schedules of weights do; since then it is used beside the task's loss.
    """

    function = staticmethod(fitnet_loss)
    pooled = None
