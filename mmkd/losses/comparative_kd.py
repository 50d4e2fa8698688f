"""Comparative KD on the logits of any head."""

from __future__ import annotations

from mmkd.functional import comparative_kd_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss
from .samplers import PositivesAndTeacherTopK


@LOSSES.register_module()
class ComparativeKDLoss(LogitLoss):
    """The teacher's differences between samples (Comparative KD, arXiv 2311.02253, WACV 2025); not CKDLoss's CKD.

    See :func:`mmkd.functional.comparative_kd_loss`: all pairs of the batch of all processes. For sigmoid heads
    nothing is published; the default samples are those of ``mmkd.PositivesAndTeacherTopK`` with k 64.
    """

    function = staticmethod(comparative_kd_loss)
    gathers = True
    samples_of_sigmoid_heads = PositivesAndTeacherTopK(k=64)
