"""OFA-KD's loss on the logits of softmax heads and classifiers."""

from __future__ import annotations

from mmkd.functional import ofa_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss


@LOSSES.register_module()
class OFALoss(LogitLoss):
    """Cross entropy with the teacher, its target class enhanced (OFA-KD, Hao et al., NeurIPS 2023).

    See :func:`mmkd.functional.ofa_loss`. Published for classifiers of different architectures, with weight 1 beside the
    student's own loss, there also on classifiers of intermediate stages, which are not built.
    """

    function = staticmethod(ofa_loss)
    activation = 'softmax'
    alternative = 'mmkd.QFLKDLoss'
