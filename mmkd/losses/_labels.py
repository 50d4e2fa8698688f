"""Labels and weights for losses that look at a sample's own class."""

from __future__ import annotations

from torch import Tensor

from mmkd.structures import LogitPairs


def targets(pairs: LogitPairs, loss: str) -> tuple[Tensor, Tensor]:
    """The class of each sample, and the weight with which it counts.

    A sample without a logit of its own class has no target: background on sigmoid heads. It stays in place with
    weight 0, so that no device has to wait for the number of the others.

    Args:
        pairs: The samples.
        loss: Name of the loss, for the error.

    Returns:
        (S,) labels within [0, C) and (S,) weights.

    Raises:
        ValueError: The head gives no labels.
    """
    if pairs.labels is None:
        raise ValueError(
            f'{loss} needs the class of every sample, and this head gives no labels: use '
            'mmkd.KDLoss (softmax heads), mmkd.QFLKDLoss (sigmoid heads) or mmkd.CKDLoss'
        )
    has_target = (pairs.labels >= 0) & (pairs.labels < pairs.student.shape[1])
    return pairs.labels.where(has_target, 0), pairs.weights * has_target
