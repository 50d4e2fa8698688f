"""The second-order form of KD on the logits of any head."""

from __future__ import annotations

from mmkd.functional import quadratic_kd_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss
from .samplers import PositivesAndTeacherTopK


@LOSSES.register_module()
class QuadraticKDLoss(LogitLoss):
    """The second-order form of KD's divergence (arXiv 2203.10163): :func:`mmkd.functional.quadratic_kd_loss`.

    On sigmoid heads every class is a distribution of its own, and the default samples are those of
    ``mmkd.PositivesAndTeacherTopK`` with k 64. The paper's form on features, which needs the teacher's gradients, is
    not implemented.
    """

    function = staticmethod(quadratic_kd_loss)
    samples_of_sigmoid_heads = PositivesAndTeacherTopK(k=64)
