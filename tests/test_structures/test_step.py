"""A step answers a request once, and names a tap that never fired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import asks
import given_boxes
import pytest
import torch

from mmkd.losses import AllSamples, Positives, TeacherTopK
from mmkd.structures import (
    Boxes,
    ClassMaps,
    Features,
    Logits,
    Progress,
    Request,
    Sources,
    Step,
    head_source,
)


class CountingSource:
    """Counts how often it answers which request."""

    taps: ClassVar[Mapping[str, str]] = {'head': 'bbox_head'}

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def answer(self, request: Any, step: Step) -> list[Any]:
        self.asked.append(request)
        return [object()]


def make_step(sources: Mapping[Any, Any] | None = None, **parts: Any) -> Step:
    records = parts.pop('records', {})
    return Step(torch.zeros(1, 3, 2, 2), [], records, Sources(sources or {}), **parts)


def test_equal_requests_share_their_answer_and_others_do_not() -> None:
    head, neck = CountingSource(), CountingSource()
    step = make_step({head_source('teacher'): head, Features(): neck})
    asked: list[Request[Any]] = [
        Logits(samples=TeacherTopK(k=5)),
        Logits(samples=TeacherTopK(k=6)),
        Logits(samples=Positives()),
        Boxes(samples=Positives()),
        ClassMaps(),
        Features(),
    ]
    answers = [step.ask(request) for request in asked]
    again = [step.ask(request) for request in asked]
    assert all(first is second for first, second in zip(answers, again, strict=True))
    assert len({id(answer) for answer in answers}) == len(asked)
    assert head.asked == asked[:-1]
    assert neck.asked == asked[-1:]
    assert step.answers == dict(zip(asked, answers, strict=True))


def test_each_teacher_and_each_crossing_has_a_source_of_its_own() -> None:
    requests = [
        Logits(samples=AllSamples()),
        Logits('other', samples=AllSamples()),
        Logits(crossed=3, samples=AllSamples()),
    ]
    sources = {request.source: CountingSource() for request in requests}
    assert len(sources) == 3
    step = make_step(sources)
    for request in requests:
        step.ask(request)
        assert sources[request.source].asked == [request]


@pytest.mark.parametrize('records', [{}, {'targets': []}])
def test_a_tap_that_never_fired_is_named(records: dict[str, list[Any]]) -> None:
    step = make_step(records=records)
    with pytest.raises(RuntimeError, match=r"'targets' recorded nothing.*head adapter"):
        step.record('targets')


def test_what_a_tap_recorded_comes_in_the_order_of_the_calls() -> None:
    step = make_step(records={'targets': ['first', 'second']})
    assert step.record('targets') == ['first', 'second']


def test_box_pairs_are_shared_by_losses_with_equal_samplers_and_know_their_images() -> None:
    step = given_boxes.step_of(given_boxes.make_table())
    first = asks.box_pairs(step, Positives())
    assert asks.box_pairs(step, Positives()) is first
    assert asks.box_pairs(step, AllSamples()) is not first
    assert step.image_sizes.tolist() == [[width, height] for height, width in given_boxes.IMAGES]


def test_random_numbers_follow_from_seed_and_iteration_and_leave_the_global_stream_alone() -> None:
    def draw(iteration: int, seed: int) -> list[float]:
        torch.manual_seed(seed)
        step = make_step(progress=Progress(iteration))
        drawn = torch.rand(4, generator=step.generator).tolist()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            untouched = torch.rand(1)
        assert torch.equal(torch.rand(1), untouched)
        return drawn

    assert draw(7, seed=1) == draw(7, seed=1)
    assert len({tuple(draw(*at)) for at in ((7, 1), (8, 1), (7, 2), (8, 2))}) == 4


def test_the_shared_numbers_are_those_of_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    drawn = []
    for rank in range(2):
        monkeypatch.setattr('mmkd.structures.step.get_rank', lambda rank=rank: rank)
        step = make_step()
        drawn.append(
            [torch.rand(4, generator=each) for each in (step.generator, step.shared_generator)]
        )
    (first, shared), (second, also) = drawn
    assert torch.equal(shared, also)
    assert not torch.equal(first, second)
    assert not torch.equal(first, shared)
