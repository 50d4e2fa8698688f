"""Steps made of given logits, and small MMDetection pairs, for the tests of the registered losses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.distillers import Distiller
from mmkd.heads import HeadAdapter
from mmkd.losses import LogitLoss
from mmkd.registry import LOSSES, build
from mmkd.structures import TEACHER, Activation, SampleTable, Sources, Step, head_source

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'test_heads'))

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
FASTER_RCNN = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
CLASSES = 4


@dataclass
class GivenTable(SampleTable):
    """A table whose logits are there already."""

    student: Tensor = field(kw_only=True)
    teacher: Tensor = field(kw_only=True)

    def student_logits(self, index: Tensor) -> Tensor:
        return self.student[index]

    def teacher_logits(self, index: Tensor) -> Tensor:
        return self.teacher[index]

    def teacher_confidence(self) -> Tensor:
        logits = self.teacher[:, : self.num_classes]
        return logits.sigmoid().amax(1)


@dataclass(eq=False)
class GivenHead(HeadAdapter):
    """A head of the given tables."""

    given: list[GivenTable]

    @property
    def activation(self) -> Activation:
        return self.given[0].activation

    @property
    def num_logits(self) -> int:
        return self.given[0].student.shape[1]

    def tables(self, step: Step) -> list[Any]:
        return self.given


def sources(*tables: GivenTable) -> Sources:
    """What answers the requests of a loss on logits."""
    return Sources({head_source(TEACHER): GivenHead(list(tables))})


@pytest.fixture
def make_table() -> Callable[..., GivenTable]:
    """A table of S samples of one image with random float64 logits, a third of them background."""

    def make(activation: Activation, samples: int = 12, seed: int = 0, **other: Any) -> GivenTable:
        noise = torch.Generator().manual_seed(seed)
        logits = CLASSES + (activation == 'softmax')

        def draw() -> Tensor:
            return 3 * torch.randn(samples, logits, generator=noise, dtype=torch.float64)

        labels = torch.arange(samples) % (CLASSES + 2)
        options = dict(
            labels=labels.clamp(max=CLASSES),
            weights=torch.ones(samples, dtype=torch.float64),
            object_ids=torch.full((samples,), -1),
            student=draw().requires_grad_(),
            teacher=draw(),
        )
        return GivenTable(activation, CLASSES, [samples], **(options | other))

    return make


@pytest.fixture
def attach() -> Callable[[Mapping[str, Any], GivenTable], LogitLoss]:
    """Build a loss on logits for the head that gives a table; float64 like the table."""

    def build_and_attach(config: Mapping[str, Any], table: GivenTable) -> LogitLoss:
        loss = build(LOSSES, config, where='model.losses.tested')
        loss.attach(sources(table))
        return loss.double()

    return build_and_attach


@pytest.fixture
def step_of() -> Callable[..., Step]:
    """A step whose head gives these tables."""

    def make(*tables: GivenTable) -> Step:
        return Step(torch.zeros(0), [], {}, sources(*tables))

    return make


@pytest.fixture(scope='session')
def distil() -> Callable[..., Distiller]:
    """A distiller with one loss, ``tested``, on a small 'retinanet' (sigmoid) or 'faster_rcnn' (softmax)."""
    from zoo import distiller, pair

    pairs = {
        'retinanet': pair(RETINANET, bbox_head__num_classes=CLASSES),
        'faster_rcnn': pair(FASTER_RCNN, roi_head__bbox_head__num_classes=CLASSES),
    }

    def make(detector: str, **config: Any) -> Distiller:
        return distiller(*pairs[detector], dict(tested=config) if config else {})

    return make


@pytest.fixture(scope='session')
def gradient_of_step() -> Callable[[Distiller], tuple[float, Tensor]]:
    """Value of ``loss_tested`` in one training step on random images, and its gradient in the student."""
    from zoo import batch, gradient, one_step

    def take(model: Distiller) -> tuple[float, Tensor]:
        losses = one_step(model, batch(num_classes=CLASSES), of='loss_tested')
        return losses['loss_tested'].item(), gradient(model.student.backbone)

    return take
