"""R2KD's correlations on the logits of any head."""

from __future__ import annotations

from typing import Any

from mmkd.functional import correlation_kd_loss
from mmkd.registry import LOSSES

from .logits import LogitLoss
from .samplers import PositivesAndTeacherTopK


@LOSSES.register_module()
class CorrelationKDLoss(LogitLoss):
    """Cosines of class probabilities by sample and by class (R2KD, IEEE TKDE 2024).

    See :func:`mmkd.functional.correlation_kd_loss`, also for the parts of R2KD that are left out. Columns span the
    samples of all processes. For sigmoid heads nothing is published: probabilities are a softmax over the classes'
    logits, and the default samples are those of ``mmkd.PositivesAndTeacherTopK`` with k 64.

    Args:
        row_weight: Weight of the samples' cosines; the function's ``rows``, a name with another meaning in this class.
        **options: See :class:`mmkd.losses.LogitLoss` and the function.
    """

    function = staticmethod(correlation_kd_loss)
    gathers = True
    samples_of_sigmoid_heads = PositivesAndTeacherTopK(k=64)

    def __init__(self, row_weight: float = 2.0, **options: Any) -> None:
        self.__dict__['row_weight'] = row_weight  # nn.Module has not begun yet
        super().__init__(**options)

    def _call(self, *tensors: Any, **given: Any) -> Any:
        return super()._call(*tensors, rows=self.row_weight, **given)
