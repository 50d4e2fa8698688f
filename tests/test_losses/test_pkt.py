"""PKT on what the class layers read."""

from __future__ import annotations

import test_classifier as classifiers
import torch

from mmkd.functional import pkt_loss


def test_it_relates_what_the_class_layers_read() -> None:
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'],
        classifiers.TEACHERS['linear'],
        dict(pkt=dict(type='mmkd.PKTLoss')),
    )
    values, step = classifiers.take_step(model)
    ((pair,),) = step.answers.values()
    assert pair.student.shape[1] != pair.teacher.shape[1]
    torch.testing.assert_close(values['loss_pkt'], pkt_loss(pair.student, pair.teacher))
    classifiers.assert_reaches_backbone(model, values['loss_pkt'])
