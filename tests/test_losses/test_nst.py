"""NST on the stages of classifiers."""

from __future__ import annotations

import test_classifier as classifiers
import torch

from mmkd.functional import nst_loss


def test_it_is_the_sum_over_the_stages() -> None:
    at = [f'backbone.layer{stage}' for stage in (1, 2, 3, 4)]
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'],
        classifiers.TEACHERS['linear'],
        dict(nst=dict(type='mmkd.NSTLoss', at=at)),
    )
    values, step = classifiers.take_step(model)
    pairs = [pair for answer in step.answers.values() for pair in answer]
    assert {pair.student.shape[-1] for pair in pairs} == {8, 4, 2, 1}
    expected = sum(nst_loss(pair.student, pair.teacher) for pair in pairs)
    torch.testing.assert_close(values['loss_nst'], expected)
    classifiers.assert_reaches_backbone(model, values['loss_nst'])
