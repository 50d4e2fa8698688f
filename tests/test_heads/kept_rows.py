"""A step whose teacher is nothing but what a store would keep of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import zoo
from asks import tables

from mmkd.distillers import Distiller
from mmkd.structures import ClassMap, Holding, Step, StoredRows
from mmkd.teachers import LivePass


@dataclass
class RowsPass(LivePass):
    """A teacher of which only rows are left."""

    rows: list[StoredRows]

    def outputs(self, compute: Any, restore: Any) -> Any:
        return restore(self.rows)

    @property
    def features(self) -> Any:
        raise AssertionError('the teacher was run')


def from_rows(model: Distiller, step: Step, holding: Holding) -> Step:
    """The step again, of the rows."""
    with torch.no_grad(), zoo.mmdet_scope():
        rows = model.teacher_rows(step.inputs, step.data_samples, holding)
    kept = RowsPass(model.teacher, step.inputs, step.data_samples, ClassMap(), rows)
    return Step(step.inputs, step.data_samples, step.records, step.sources, {'teacher': kept})


def assert_same_at(live: Step, kept: Step, k: int) -> None:
    """Whether the tables say the same of the teacher's top k, to half precision."""
    for ours, theirs in zip(tables(live), tables(kept), strict=True):
        index = ours.teacher_top(k)
        assert len(index)
        assert torch.equal(theirs.teacher_top(k), index)
        logits = ours.teacher_logits(index)
        torch.testing.assert_close(theirs.teacher_logits(index), logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(theirs.teacher_boxes(index), ours.teacher_boxes(index))
        confidence = ours.teacher_confidence()[index]
        found = theirs.teacher_confidence()[index]
        torch.testing.assert_close(found, confidence, rtol=1e-3, atol=1e-4)
