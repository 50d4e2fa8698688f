"""SyncBN: what MMEngine converts. PyTorch has none for CPUs, so that nothing is synchronised here."""

from __future__ import annotations

import pytest
import zoo
from mmengine.model import convert_sync_batchnorm
from tiny import fresh_hub, student_model, teacher_model
from torch import nn

from mmkd.distillers import Distiller


@pytest.fixture
def model() -> Distiller:
    fresh_hub()
    losses = dict(review=dict(type='mmkd.ReviewKDLoss', mid_channels=8))
    return zoo.distiller(student_model(), teacher_model(), losses)


def kinds(module: nn.Module) -> set[type]:
    """Classes of the batch normalisations in a module."""
    return {
        type(part) for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)
    }


def test_student_and_losses_are_converted_the_teacher_is_not(model: Distiller) -> None:
    keys = list(model.state_dict())

    converted = convert_sync_batchnorm(model)

    assert converted is model
    assert kinds(model.student) == kinds(model.distill) == {nn.SyncBatchNorm}
    assert model.student.backbone is model.backbone
    assert nn.SyncBatchNorm not in kinds(model.teacher.model)
    assert list(model.state_dict()) == keys
    losses = zoo.one_step(model, zoo.batch(size=64, num_classes=10))
    assert losses['loss_review'].isfinite()
    assert zoo.gradient(model).any()
