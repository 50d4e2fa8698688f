"""What tests ask of a step, as losses do; and steps whose features are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from mmkd.structures import (
    TEACHER,
    Boxes,
    BoxPairs,
    FeaturePair,
    Features,
    LogitPairs,
    Logits,
    Sources,
    Step,
    head_source,
)


def tables(step: Step) -> list[Any]:
    """The head's sample tables."""
    return step.sources.get(head_source(TEACHER)).sample_tables(step)


def logit_pairs(step: Step, sampler: Any) -> list[LogitPairs]:
    return step.ask(Logits(samples=sampler))


def box_pairs(step: Step, sampler: Any) -> list[BoxPairs]:
    return step.ask(Boxes(samples=sampler))


def feature_pairs(step: Step) -> list[FeaturePair]:
    """Pairs of the necks' levels."""
    return step.ask(Features())


class GivenFeatures:
    """A source of features that are there already."""

    taps: ClassVar[Mapping[str, str]] = {}

    def __init__(self, pairs: list[FeaturePair]) -> None:
        self.pairs = pairs
        self.channels = [(pair.student.shape[1], pair.teacher.shape[1]) for pair in pairs]
        self.strides = [pair.stride for pair in pairs]

    def answer(self, request: Any, step: Step) -> list[FeaturePair]:
        return self.pairs


def on_features(loss: Any, pairs: list[FeaturePair]) -> Any:
    """A loss's value in a step in which the necks gave these pairs."""
    sources = Sources({Features().source: GivenFeatures(pairs)})
    loss.attach(sources)
    return loss(Step(torch.zeros(1), [], {}, sources))
