"""PKDLoss hands every level to the function."""

from __future__ import annotations

from typing import Any

import torch

from mmkd.functional import pkd_loss
from mmkd.losses import PKDLoss
from mmkd.structures import FeaturePair, Step


def test_the_value_is_the_functions_on_all_levels() -> None:
    noise = torch.Generator().manual_seed(0)
    maps = [[torch.randn(2, 3, size, size, generator=noise) for size in (8, 4)] for _ in range(2)]

    class Neck:
        def feature_pairs(self, step: Step) -> list[FeaturePair]:
            return [FeaturePair(level, *pair) for level, pair in enumerate(zip(*maps, strict=True))]

    value = PKDLoss(weight=6)(Step(torch.zeros(1), [], {}, lambda *_: (), neck=Neck()))  # type: ignore[arg-type]
    torch.testing.assert_close(value, pkd_loss(*maps))
    assert value > 0


def test_equal_features_give_zero() -> None:
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    class Neck:
        def feature_pairs(self, step: Step) -> list[FeaturePair]:
            return [FeaturePair(0, features, features * 3 + 1)]

    value = PKDLoss()(Step(torch.zeros(1), [], {}, lambda *_: (), neck=Neck()))  # type: ignore[arg-type]
    assert value < 1e-5


def test_it_trains_the_backbone_of_a_detector(distil: Any, gradient_of_step: Any) -> None:
    value, gradient = gradient_of_step(distil('retinanet', type='mmkd.PKDLoss'))
    assert value > 0
    assert torch.isfinite(gradient).all()
    assert gradient.any()
