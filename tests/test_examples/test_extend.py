"""The code that docs/extending.md shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / 'examples' / 'extend.py'


@pytest.fixture(scope='module')
def example():
    spec = importlib.util.spec_from_file_location('extend', EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_step_uses_the_method_the_head_and_the_teacher(example, monkeypatch) -> None:
    built = []
    make = example.distiller
    monkeypatch.setattr(example, 'distiller', lambda: built.append(make()) or built[0])

    values = example.main()

    (model,) = built
    assert type(model.teacher) is example.SnapshotTeacher
    assert 'quality' in dict(model.bbox_head.named_children())
    assert {'loss_power', 'loss_quality'} <= values.keys()
    # The teacher is the student of this very iteration but for what eval mode changes.
    same = zip(model.student.parameters(), model.teacher.model.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in same)
    assert any(weight.grad is not None for weight in model.backbone.parameters())


def test_the_method_is_its_formula(example) -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    weights = torch.tensor([1.0, 0.0, 3.0])
    rows = [((s - t) ** 2).mean() for s, t in zip(student, teacher, strict=True)]
    expected = (rows[0] + 3 * rows[2]) / 4
    torch.testing.assert_close(example.power_loss(student, teacher, weights=weights), expected)
