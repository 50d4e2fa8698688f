"""CWD on feature maps and class maps."""

from __future__ import annotations

from typing import Any

from mmkd.functional import cwd_loss
from mmkd.registry import LOSSES

from .features import FeatureLoss


@LOSSES.register_module()
class CWDLoss(FeatureLoss):
    """Every channel as a distribution over space (CWD, Shu et al., ICCV 2021): :func:`mmkd.functional.cwd_loss`.

    Args:
        temperature: τ. Published: 10 with a weight of 10 on the neck, 5 with a weight of 2 on class maps,
            ``at='class_maps'``.
        **options: See :class:`mmkd.losses.FeatureLoss`.
    """

    function = staticmethod(cwd_loss)

    def __init__(self, temperature: float = 10.0, **options: Any) -> None:
        super().__init__(temperature=temperature, **options)
