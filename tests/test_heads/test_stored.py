"""What dense heads keep for a store gives the tables that the live teacher gives, to half precision."""

from __future__ import annotations

import dense_runs
import pytest
import torch
from asks import tables
from kept_rows import assert_same_at, from_rows

from mmkd.losses.samplers import Positives, PositivesAndTeacherTopK
from mmkd.structures import TEACHER, Boxes, Holding, Logits, head_source

NAMES = ('RetinaNet', 'SSD', 'SABL', 'GFL', 'TOOD', 'FCOS+', 'RepPoints', 'YOLOX', 'CenterNet')


@pytest.mark.parametrize('name', NAMES)
def test_tables_of_kept_rows_are_those_of_the_live_teacher(name: str) -> None:
    run = dense_runs.run(name)
    assert_same_at(run.step, from_rows(run.model, run.step, Holding(top=8, boxes=True)), 8)


def test_a_sample_that_is_not_kept_has_no_logits_rather_than_anothers() -> None:
    run = dense_runs.run('RetinaNet')
    (table,) = tables(from_rows(run.model, run.step, Holding(top=8)))
    kept = torch.zeros(len(table), dtype=torch.bool)
    kept[table.teacher_top(8)] = True
    assert torch.equal(table.teacher_logits(table.everything).isfinite().all(dim=1), kept)


@pytest.mark.parametrize('name', ['RetinaNet', 'SSD', 'ATSS', 'GFL', 'FCOS'])
def test_positives_of_static_assigners_are_kept(name: str) -> None:
    run = dense_runs.run(name)
    adapter = run.step.sources.get(head_source(TEACHER))
    holding = adapter.to_store(Boxes(samples=PositivesAndTeacherTopK(k=8)))
    kept = from_rows(run.model, run.step, holding)
    (live,), (found,) = tables(run.step), tables(kept)
    assert torch.equal(found.teacher_top(8), live.teacher_top(8))
    index = live.is_foreground().nonzero().flatten()
    assert len(index)
    expected = live.teacher_logits(index)
    torch.testing.assert_close(found.teacher_logits(index), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.teacher_boxes(index), live.teacher_boxes(index))


@pytest.mark.parametrize(
    'name', ['YOLOF', 'DDOD', 'TOOD', 'PAA', 'FSAF', 'FreeAnchor', 'YOLOX', 'RTMDet', 'VFNet']
)
def test_positives_that_follow_from_outputs_are_not(name: str) -> None:
    adapter = dense_runs.run(name).step.sources.get(head_source(TEACHER))
    with pytest.raises(ValueError, match=r'Positives: .* own outputs'):
        adapter.to_store(Logits(samples=Positives()))


def test_another_assignment_needs_another_store() -> None:
    held = Holding(top=8, positives='a')
    assert held | Holding(top=0, positives='a') == held
    assert held | Holding(top=0, positives='b') != held
