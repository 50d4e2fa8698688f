"""A step builds pairs once, runs the teacher once and only when asked, and names a tap that never fired."""

from __future__ import annotations

from typing import Any

import given_boxes
import pytest
import torch
from torch import Tensor

from mmkd.losses import AllSamples, Positives, TeacherTopK
from mmkd.structures import FeaturePair, LogitPairs, Step


class CountingTable:
    """Counts how often its pairs are made."""

    def __init__(self) -> None:
        self.samplers: list[Any] = []

    def pairs(self, sampler: Any) -> LogitPairs:
        self.samplers.append(sampler)
        return object()  # type: ignore[return-value]


class CountingHead:
    """Counts how often tables are made, and reads the teacher's features for them."""

    def __init__(self) -> None:
        self.table = CountingTable()
        self.calls = 0

    def tables(self, step: Step) -> list[Any]:
        self.calls += 1
        assert step.teacher_features
        return [self.table]


class CountingNeck:
    """Counts how often pairs of features are made."""

    calls = 0

    def feature_pairs(self, step: Step) -> list[FeaturePair]:
        self.calls += 1
        return [FeaturePair(0, torch.zeros(1, 1, 1, 1), step.teacher_features[0])]


def make_step(**parts: Any) -> tuple[Step, list[Tensor]]:
    runs: list[Tensor] = []

    def run_teacher(inputs: Tensor, data_samples: Any) -> tuple[Tensor, ...]:
        runs.append(inputs)
        return (inputs,)

    inputs = torch.zeros(1, 3, 2, 2)
    records = parts.pop('records', {})
    return Step(inputs, [], records, run_teacher, **parts), runs


def test_equal_samplers_share_their_pairs_and_others_do_not() -> None:
    head = CountingHead()
    step, _ = make_step(head=head)
    first = step.logit_pairs(TeacherTopK(k=5))
    assert step.logit_pairs(TeacherTopK(k=5)) is first
    assert step.logit_pairs(TeacherTopK(k=6)) is not first
    assert step.logit_pairs(Positives()) is not step.logit_pairs(AllSamples())
    assert head.table.samplers == [TeacherTopK(5), TeacherTopK(6), Positives(), AllSamples()]
    assert head.calls == 1


def test_the_teacher_runs_once_for_logits_and_features_together() -> None:
    neck = CountingNeck()
    step, runs = make_step(head=CountingHead(), neck=neck)
    assert runs == []
    step.logit_pairs(AllSamples())
    step.logit_pairs(Positives())
    assert step.feature_pairs is step.feature_pairs
    assert neck.calls == 1
    assert len(runs) == 1
    assert runs[0] is step.inputs


@pytest.mark.parametrize('records', [{}, {'targets': []}])
def test_a_tap_that_never_fired_is_named(records: dict[str, list[Any]]) -> None:
    step, _ = make_step(records=records)
    with pytest.raises(RuntimeError, match=r"'targets' recorded nothing.*head adapter"):
        step.record('targets')


def test_what_a_tap_recorded_comes_in_the_order_of_the_calls() -> None:
    step, _ = make_step(records={'targets': ['first', 'second']})
    assert step.record('targets') == ['first', 'second']


def test_asking_for_what_no_adapter_serves_says_so() -> None:
    step, _ = make_step()
    with pytest.raises(RuntimeError, match='no head adapter'):
        step.logit_pairs(AllSamples())
    with pytest.raises(RuntimeError, match='no neck adapter'):
        _ = step.feature_pairs


def test_box_pairs_are_shared_by_losses_with_equal_samplers_and_know_their_images() -> None:
    step = given_boxes.step_of(given_boxes.make_table())
    first = step.box_pairs(Positives())
    assert step.box_pairs(Positives()) is first
    assert step.box_pairs(AllSamples()) is not first
    assert step.image_sizes.tolist() == [[width, height] for height, width in given_boxes.IMAGES]
