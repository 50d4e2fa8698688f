"""SP on maps and on pooled features of classifiers."""

from __future__ import annotations

import pytest
import test_classifier as classifiers
import torch

from mmkd.functional import sp_loss


@pytest.mark.parametrize('at', ['backbone', 'backbone.layer2', 'pre_logits'])
def test_it_relates_the_samples_by_maps_or_pooled_features(at: str) -> None:
    losses = dict(sp=dict(type='mmkd.SPLoss', at=at))
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'], classifiers.TEACHERS['linear'], losses
    )
    values, step = classifiers.take_step(model)
    ((pair,),) = step.answers.values()
    assert pair.student.shape[1] != pair.teacher.shape[1]
    assert pair.student.dim() == (2 if at == 'pre_logits' else 4)
    expected = sp_loss(pair.student, pair.teacher)
    assert expected > 0
    torch.testing.assert_close(values['loss_sp'], expected)
    classifiers.assert_reaches_backbone(model, values['loss_sp'])
