"""CC on the pooled features of classifiers."""

from __future__ import annotations

from mmkd.functional import cc_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class CCLoss(FeatureLoss):
    """Correlation congruence of pooled features (CC, Peng et al., ICCV 2019): :func:`mmkd.functional.cc_loss`.

    RepDistiller compares linear embeddings of 128 channels of both networks' features, with a weight of 0.02. Here the
    student's are brought to the teacher's width by a ``connector``, and the teacher's stay what they are: embeddings of
    both that are trained could shrink the two to nothing. The features are by default those that the class layer reads,
    ``at='pre_logits'``. The batch is that of all processes.
    """

    function = staticmethod(cc_loss)
    gathers = True
    pooled = True
