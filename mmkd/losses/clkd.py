"""CLKD on the logits of any head."""

from __future__ import annotations

from mmkd.functional import clkd_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss
from .samplers import PositivesAndTeacherTopK


@LOSSES.register_module()
class CLKDLoss(LogitLoss):
    """Logits by sample, by class, and the correlation of classes (Class-aware Logit KD, arXiv 2211.14773).

    See :func:`mmkd.functional.clkd_loss`, whose defaults are the published settings; published beside 0.1 of the cross
    entropy (``model.task_weight``). Columns span the samples of all processes. For sigmoid heads nothing is
    published; the default samples are those of ``mmkd.PositivesAndTeacherTopK`` with k 64.
    """

    function = staticmethod(clkd_loss)
    gathers = True
    samples_of_sigmoid_heads = PositivesAndTeacherTopK(k=64)
