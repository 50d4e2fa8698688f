from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import zoo
from tiny import CKD, NUM_CLASSES, fresh_hub, student_model

from mmkd.distillers import Distiller

PARTS = ('backbone.layer1', 'backbone.layer4', 'neck')


@pytest.mark.parametrize(
    ('at', 'others', 'runs', 'compiled'),
    [
        (['backbone.layer1'], {}, PARTS[:1], False),
        (['backbone.layer3', 'backbone'], {}, PARTS[:2], False),
        (['backbone', 'neck'], {}, PARTS, False),
        (['backbone'], dict(ckd=CKD), PARTS, False),
        (['backbone'], dict(pkd=dict(type='mmkd.PKDLoss')), PARTS, False),
        (['backbone'], {}, PARTS, True),
    ],
)
def test_a_teacher_runs_no_further_than_to_what_is_asked(
    at: list[str], others: dict[str, Any], runs: tuple[str, ...], compiled: bool
) -> None:
    fresh_hub()
    torch.manual_seed(0)
    losses = dict(inner=dict(type='mmkd.PKDLoss', at=at), **others)
    model = zoo.distiller(student_model(), student_model(), losses)
    if compiled:
        model.teacher.compile(dict(backend='eager'))
    seen: Counter[str] = Counter()
    for name in PARTS:
        part = model.teacher.model.get_submodule(name)
        part.register_forward_pre_hook(lambda *_, name=name: seen.update([name]))
    data = zoo.batch(size=64, num_classes=NUM_CLASSES)
    values = []
    for _ in range(3):
        seen.clear()
        values.append(step(model, data))
    assert seen == Counter(runs)
    assert values[0] == pytest.approx(values[2], rel=1e-6)


def step(model: Distiller, data: dict[str, Any]) -> list[float]:
    with zoo.mmdet_scope(), torch.no_grad():
        losses = model.loss(data['inputs'], [sample.clone() for sample in data['data_samples']])
    return [float(value) for name, value in losses.items() if isinstance(value, torch.Tensor)]
