"""NKD on the logits of softmax heads and classifiers."""

from __future__ import annotations

from mmkd.functional import nkd_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss


@LOSSES.register_module()
class NKDLoss(LogitLoss):
    """Cross entropies with the teacher, the other classes normalised (Yang et al., ICCV 2023).

    See :func:`mmkd.functional.nkd_loss`, whose defaults are the published settings. The target is the class that
    the student's own assignment gave, which may be background.
    """

    function = staticmethod(nkd_loss)
    activation = 'softmax'
    alternative = "mmkd.AEKTLoss with explicit='nkd', whose target term is binary there"
